"""stub"""
from stages.formats.message import Format


def sniff(text): return 0.0
def read(text, options): return iter(())
FORMAT = Format("prose", (".txt",), sniff, read)
