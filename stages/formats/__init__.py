"""The shelf of script formats: one file a format, one line a format in the table.

A reader gets the decoded text (line ends are "\\n", no byte order mark) and yields Message and Reject in the order of
the source. To add one, write `sniff` and `read` in a file here and add its line.
"""

from stages.formats import (
    csv,
    docx,
    fountain,
    json,
    kag,
    nameless,
    naninovel,
    prose,
    renpy,
    renpy_tab,
    subtitles,
    text,
    tyrano,
    webgal,
    yarn,
)
from stages.formats.message import Format, Message, Options, Reject

__all__ = ["FORMATS", "Format", "Message", "Options", "Reject"]

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        text.FORMAT,
        docx.FORMAT,
        json.FORMAT,
        csv.FORMAT,
        fountain.FORMAT,
        subtitles.FORMAT,
        prose.FORMAT,
        nameless.INK,
        nameless.NSCRIPTER,
        nameless.TWEE,
        nameless.AOZORA,
        renpy.FORMAT,
        renpy_tab.FORMAT,
        kag.FORMAT,
        tyrano.FORMAT,
        webgal.FORMAT,
        yarn.FORMAT,
        naninovel.FORMAT,
    )
}
