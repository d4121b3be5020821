"""A call that never loses a word: what happens between a source and a recogniser that fails.

tape       pure: audio that may be needed again, by sample
spool      where the tape's older part goes: an encrypted file that nobody can open
roster     pure: which recogniser to try next, and when
watchdog   pure: speech was sent, and nothing came back
timeline   pure: what was told already, so that a replay says nothing twice
stream     the shell: one side of one call over as many recogniser streams as it takes
mending    the shell's second hand: recognises audio again while live goes on
recogniser the shell's door: the speech contract over a chain of recognisers

Audio time is the clock: every stream that is opened is told at which millisecond of the call it begins, so what it says
needs no arithmetic with wall time, however often it is opened. Source: DESIGN 5, OPERATIONS d3.
"""
