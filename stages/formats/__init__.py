"""The shelf of script formats: one file a format, and the table of them at the foot.

A format is three plain functions:

    sniff(text) -> float             how much of the text looks like this format, 0 to 1
    read(text, options) -> messages  Message for what was said, Reject for a line no rule understands
    survey(texts) -> dict            optional: names that one file defines and others use (identifier -> name)
"""
