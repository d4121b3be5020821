"""Amazon Connect's side of a call: contact events, and Kinesis Video Streams with `GetDataEndpoint` and `GetMedia`.

media    pure: fragments in Connect's own byte layout
stream   a stream that grows while it is read
faults   what a `GetMedia` session does wrong, on demand
service  the HTTP interface that the AWS client library talks to
"""
