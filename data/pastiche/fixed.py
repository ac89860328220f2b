"""Stress patterns of the words of more than one syllable that stand fixed in verse templates and phrases."""

STRESS: dict[str, str] = {
    "01": (
        "about above abroad again ago alack alas alone aloud among apart ashore assured away awhile because "
        "before began behind believe below beneath beside between beyond command confess enough farewell "
        "forsooth indeed inside methinks methought obey outlives report thyself today tonight until upon "
        "upstairs within"
    ),
    "010": ("another remember"),
    "10": (
        "anger answer any apple april arras barley belly bishop's brewer's cannot castle chapel christmas "
        "cistern closet cock-crow common cover crooked either empty enter ever every father's ferry finger "
        "fingers fountain's friday garden grandam's harvest heaven hector hither hollow holy honour jewel "
        "judges kitchen lady's laughter leisure lion's lover many market marry matter mercy miller's monday "
        "morning neither never orchard other over pardon patience pillow pointed prison rather reason river "
        "seventh silence sooner sorrow stable tanner's thousand tower truly tuesday twilight under venus very "
        "wagon water western widow's window winter wiser wounded yonder"
    ),
    "100": (
        "altar-stone candle-light evensong fish-market gallery halidom midsummer milking-stool supper-time "
        "verily window-sill yesterday"
    ),
    "101": ("evermore"),
    "11": ("outdoors"),
}
