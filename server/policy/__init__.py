"""What the models claim becomes guidance, or stays silent: reviewed rules, pure and deterministic.

    document      the YAML as written (structs, unknown keys refused)
    words         recogniser text made comparable, and patterns over it
    rules         the compiled policy: conditions, moments, actions, checklist
    validation    document → rules, or a `ConfigError` with the path of the wrong value
    loading       file → document → rules
    prototypes    example phrases → labels, calibrated thresholds, collisions
    own_actions   labels of `actions` by example: claimed among the moments, shown among the actions
    conditions    does a condition hold on one revision of an utterance: yes, no, not known yet
    memory        what a call's matcher remembers
    moments       utterances and annotations → moments that begin, are confirmed, withdrawn or end
    attention     at most k cards a minute, best first
    cards         the life of a card: new → update → expire | retract
    checklist     steps that tick themselves
    runtime       one call's policy: everything above behind five methods and a clock
    store         the policies of a folder, hot-loaded, the old one serving until the new one is right

Nothing here reads a clock, a socket or a model; time comes in as `now_s`.
"""
