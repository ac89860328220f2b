"""Phrases that fill slots: times, places, oaths, cries and articles, divided by |."""

PHRASES: dict[str, str] = {
    "adv": (
        "in vain|with shame|in haste|for love|in fear|too late|too soon|alone|apart|aloud|awhile|"
        "tonight|at leisure|in silence|with laughter|in sorrow|in anger"
    ),
    "where": (
        "beneath the bridge|beside the mill|behind the chapel wall|within the tower|upon the stair|"
        "among the reeds|under my pillow|in the well|beside the ferry|by the western gate|below the orchard|"
        "near the fish-market|in the miller's barn|behind the brewer's cart|upon the window-sill|"
        "above the kitchen door|beyond the river|at the fountain's brim|inside a hollow oak|among the barley|"
        "in the widow's garden|beneath a heap of straw|beside the lion's cage|in the bishop's stable|"
        "under the altar-stone|beside a milking-stool|where the three roads meet|in my lady's closet|"
        "behind the arras|upon the castle wall|in a cold ditch|beneath the apple tree|at the crooked inn|"
        "by the tanner's yard|on the church roof|in the long gallery|under a wagon|by the salt sea|"
        "in the deep wood|over the hill|among the tombs|beside the fire|in a dry cistern|upon the common|"
        "abroad|at home|in jail|in bed|at sea|in church|upstairs|in prison|at market|in heaven|ashore|"
        "below|outdoors"
    ),
    "when": (
        "last night|at dawn|this morning|yesterday|before the bell|at noon|on Tuesday|"
        "when the moon was up|at supper-time|on Friday last|before the thaw|in April|by candle-light|"
        "on the feast day|at the new moon|last harvest|when the clock struck ten|before the rain|"
        "this very hour|on midsummer eve|a week ago|at cock-crow|since Monday|in the great frost|"
        "twelve days ago|at evensong|when the tide turned|in holy week|at the wheat fair|last winter|"
        "on market day|within this hour|today|tonight|once|of late|long since|last May|at night|in Lent|"
        "at one|on Monday|at twilight|in winter|at Christmas"
    ),
    "oath": (
        "by heaven|by my troth|upon my life|by this good light|by all the saints|by my sword|on my soul|"
        "by the moon|by this right hand|by yonder star|upon my faith|by my father's grave|as I am true|"
        "by bread and salt|by cock and pie|by my grandam's wig|on mine honour|by the holy well|"
        "by my halidom|by fire and water|before my judges|by this white beard|by the blue sky|"
        "as I hope for heaven|by my ten fingers|upon the book|by night and day|by the bones of kings|"
        "in truth|in sooth|by Jove|God knows|in good faith|I vow|truly|by Venus|by Hector"
    ),
    "cry": (
        "alas,|alack,|nay,|why,|truly,|marry,|faith,|forsooth,|well,|come,|indeed,|good heaven,|"
        "in truth,|good lord,|look you,|mark me,|hark,|lo,|soft,|hear me,|believe me,|by heaven,|"
        "upon my life,|tush,|fie,|fie, fie,|I pray you,|verily,|mercy,|peace,|patience,|trust me,|"
        "I tell thee,|methinks,|ah,|oh,|God save us,|saints above,|woe is me,|no matter,|to be plain,|"
        "once for all,|as I live,|be assured,|I say again,|pardon me,|by your leave,|sooth,"
    ),
    "the": (
        "the|this|that|thy|my|his|her|our|their|yon|your|the same|that same|this same|his own|"
        "her own|our own|my own|their own"
    ),
    "a": ("a|the|my|thy|his|her|our|their|this|that|some|one|yon|every|another"),
    "those": (
        "the|those|these|our|my|thy|his|her|their|all|such|some|most|few|both|many|all our|all these|all those|other"
    ),
}
