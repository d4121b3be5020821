"""The first client of both ends: streams a recording in as telephony does, follows the feed as the agent does.

recording     WAV files → two sides on one clock
source        sides → `/v1/ingest/audio`, in real time or as fast as the server acknowledges
feed_client   `/v1/feed` → publications, resumed after every cut
report        publications and their times → figures, pure
replay        ties them together
"""
