"""What a scene is about: the nouns of one field, of which each scene draws eight; as in lexicon.py."""

FIELDS: dict[str, dict[str, str]] = {
    "ring": {
        "1": "ring pearl pledge drawer clasp",
        "10": (
            "locket ribbon jewel bracelet casket mirror necklace keepsake pocket window chamber keyhole "
            "girdle cushion carpet cradle thimble"
        ),
        "100": "cabinet emerald",
    },
    "letter": {
        "1": "seal page scroll quill",
        "10": (
            "letter packet parchment answer errand cipher postscript satchel secret margin pigeon riddle "
            "message token inkstand"
        ),
        "100": "signature syllable envelope",
    },
    "quarrel": {
        "01": "insult affront",
        "0100": "apology",
        "1": "blade wound glance bruise scar feud grudge boast",
        "10": "quarrel challenge scabbard slander gauntlet dagger temper",
        "100": "rapier buckler",
    },
    "wooing": {
        "001": "serenade",
        "1": "kiss lute blush rose sigh bride dance glove smile",
        "10": "sonnet garland dowry wedding bower whisper nosegay ballad",
        "100": "balcony violet nightingale valentine lullaby",
    },
    "wager": {
        "1": "purse horse race coin stake bet rein whip",
        "10": (
            "wager tally saddle hazard gallop bargain stable ducat bridle sixpence falcon hurdle gamecock "
            "racecourse guinea"
        ),
    },
    "war": {
        "01": "retreat frontier",
        "1": "siege bridge trench drum breach truce camp gate",
        "10": "banner trumpet rampart cannon ambush battle fortress tower drumbeat",
        "100": "victory cannonball",
    },
    "ghost": {
        "1": "ghost grave shroud vault curse tomb moan",
        "10": (
            "shadow churchyard lantern candle chapel footstep raven phantom cloister coffin spectre spirit "
            "vigil moonbeam gravestone curtain"
        ),
        "100": "skeleton",
    },
    "debt": {
        "01": "receipt account",
        "010": "agreement",
        "1": "bond debt plea sum fee",
        "10": "ledger verdict statute prison forfeit warrant contract mortgage farthing sentence pardon",
    },
    "voyage": {
        "1": "ship mast wreck deck tide raft sail port gale",
        "10": "harbour tempest anchor island cargo compass rudder haven voyage current vessel whirlpool billow",
    },
    "crown": {
        "01": "decree",
        "1": "crown throne plot vow robe",
        "10": "sceptre kingdom treaty castle palace title rumour faction signet",
        "100": "heritage",
        "101": "coronet",
    },
    "sickness": {
        "1": "pulse cure gout rash",
        "10": (
            "fever potion plaster bandage pillow poultice diet syrup symptom palsy ointment blister toothache sickbed"
        ),
        "100": "remedy recipe medicine",
    },
    "feast": {
        "1": "goose dish cheese loaf pie",
        "10": (
            "supper pudding pasty capon kitchen barrel oven dinner cellar banquet kettle onion tankard "
            "pottage gammon sausage trencher"
        ),
    },
    "dream": {
        "0010": "constellation",
        "01": "eclipse",
        "1": "dream star moon",
        "10": "comet eagle planet omen vision slumber warning circle lion serpent nightmare",
        "100": "almanac mystery prophecy prodigy",
    },
    "flock": {
        "1": "flock lamb fence plough mill ox barn ewe hedge fleece brook crook",
        "10": "pasture orchard harvest meadow cottage whistle heifer sheepdog acre cornfield dairy sheepfold",
    },
    "masque": {
        "01": "costume",
        "1": "play stage masque song mask speech rhyme cue",
        "10": "prologue tabor chorus vizard pageant",
        "100": "epilogue comedy tragedy",
    },
    "thief": {
        "01": "alarm",
        "1": "lock key bolt lamp staff",
        "10": "alley halter gallows ladder bundle cudgel whipping gibbet dungeon",
    },
}
