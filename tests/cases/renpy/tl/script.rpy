# game/script.rpy:6
translate english start_1a2b3c4d:

    # lin happy "下雨了。"
    voice "en/lin_001.ogg"
    lin happy "It is raining."

translate english start_1a2b3c4d_1:

    # "雨声。"
    "Rain."

translate english start_half:

    # mc "带了一半。"
    mc "Half of one."

translate english start_inner_99aa88bb:

    # centered "第二天"
    centered "The next day"

translate english strings:

    # game/script.rpy:38
    old "好 (x)"
    new "All right"

translate english python:
    x = "no text"
