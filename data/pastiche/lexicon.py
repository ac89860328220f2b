"""The words of the pastiche: by category and, within it, by stress pattern (1 stressed, 0 not, per syllable).

`word:past` gives an irregular past; all other forms are inflected by forms.py.
"""

NOUNS: dict[str, dict[str, str]] = {
    "role": {
        "010": "physician",
        "01000": "apothecary",
        "1": (
            "friend fool knave priest nurse squire page knight duke prince earl nun spy groom scout judge "
            "clerk cook thief"
        ),
        "10": (
            "widow soldier merchant stranger beggar scholar poet friar tailor miller cobbler neighbour "
            "villain coward servant kinsman cousin brother sister mother father husband daughter uncle "
            "butcher baker blacksmith weaver tinker ploughman huntsman boatman mason barber steward porter "
            "duchess princess countess baron bishop abbess hermit pilgrim orphan maiden lover braggart "
            "glutton hostess ostler midwife rival surgeon suitor gamester captain herald sexton lawyer "
            "witness bailiff pilot sailor seaman regent traitor rebel exile prophet wizard shepherd player "
            "fiddler minstrel watchman culprit burglar cutpurse jailer"
        ),
        "100": (
            "gentleman fisherman gardener carpenter bachelor flatterer usurer innkeeper schoolmaster "
            "messenger creditor chancellor minister constable pickpocket courier"
        ),
    },
    "thing": {
        "1": (
            "cloak hat spoon bow spear shield horn whip sleeve shoe boot cup jug bowl plate knife axe spade "
            "broom wheel cart bell clock book pen map coat stool chair bench lamp torch flint staff crutch "
            "rope chain nail hook net oar bag sack box trunk chest fan comb brush harp flute blade brick "
            "brooch cap churn coil cord cork cot crate crock cross crumb doll file flask fork frame hinge "
            "hood hoop jar kite knot lance latch lid log mop mug pail pan peg pike pipe pot pouch pump quilt "
            "rag rake rod rug ruff saw screen scythe shawl sheet shirt sieve sling sock spur stick strap "
            "string tart thread toy tray tub urn vase veil vest wedge wick yoke"
        ),
        "10": (
            "hammer bucket basket blanket feather sickle hatchet arrow helmet needle spindle mantle slipper "
            "stocking apron bonnet kerchief bottle goblet flagon trencher shovel wagon inkwell doublet "
            "mattress table fiddle anvil awning barrow biscuit bobbin bodkin bracket bugle button cable "
            "carriage chalice chisel collar cymbal dial dumpling easel fender funnel garter gavel grater "
            "griddle hamper harness horseshoe idol jacket jerkin ladle manger medal mitten mortar mallet "
            "muzzle napkin paddle pebble pestle pitcher platter poker pulley puppet rattle razor sandal "
            "shutter stirrup sundial towel turban viol wimple wire"
        ),
        "100": "candlestick hourglass handkerchief",
    },
    "spot": {
        "01": "lagoon ravine",
        "010": "pavilion",
        "0100": "distillery infirmary peninsula refectory",
        "1": (
            "street church marsh cliff field wood inn bay beach cell copse crypt dell den dock fen ford grove "
            "heath hut lane lodge moat moor plain pool quay shop shore square swamp ward"
        ),
        "10": (
            "tower garden market valley mountain forest village tavern abbey cavern courtyard dungeon "
            "cloister desert thicket river hilltop bakehouse smithy vineyard quarry schoolhouse "
            "ferry highway attic staircase graveyard almshouse alley arbour archway ballroom basin belfry "
            "canyon causeway chasm chancel city convent corner dovecote farmyard fishpond foundry gateway "
            "gully hamlet harbour hillside kennel laundry manor mansion moorland pantry parish parlour "
            "passage schoolroom seaport suburb temple terrace tollgate tunnel turret warehouse woodland "
            "workshop"
        ),
        "100": (
            "gallery wilderness battlefield nunnery library armoury avenue brewery corridor hospital "
            "labyrinth nursery scullery tannery theatre waterfront"
        ),
        "1000": "monastery",
    },
    "beast": {
        "1": (
            "fox wolf bear owl hawk lark crow duck swan cat mouse rat hare toad frog bee wasp moth mule goat "
            "pig calf bull whale"
        ),
        "10": (
            "sparrow swallow magpie peacock turkey gander weasel badger rabbit hedgehog adder spider beetle "
            "hornet donkey camel monkey tiger leopard salmon herring oyster tortoise cuckoo"
        ),
        "100": "butterfly elephant",
    },
    "sky": {
        "01": "cascade",
        "010": "volcano",
        "1": (
            "storm cloud wave frost breeze elm oak leaf seed branch flame ash beech birch crag fern fir flood "
            "gust moss pine reed rush surf swell thorn twig vine yew"
        ),
        "10": (
            "rainbow sunset torrent fountain snowflake shower whirlwind sunrise winter summer autumn morning "
            "evening willow cedar ivy flower lily daisy thistle nettle bramble blossom ember cinder shadow "
            "raindrop poppy primrose acorn aspen blizzard bluebell boulder breaker bubble chestnut clover "
            "cowslip crescent daybreak dewdrop flurry foxglove glacier hailstone hawthorn hazel hemlock holly "
            "laurel lilac lichen maple moonrise myrtle orchid pansy poplar puddle rapid ripple rosebud "
            "sapling snowdrop sunbeam trickle tulip walnut zephyr"
        ),
        "100": (
            "thunderbolt waterfall icicle marigold avalanche buttercup daffodil hurricane hyacinth juniper "
            "lavender meteor mistletoe rivulet sunflower thundercloud"
        ),
    },
    "limb": {
        "1": (
            "heart hand eye tongue ear cheek brow breast knee foot neck throat brain face mouth head lip "
            "wrist soul spine"
        ),
        "10": "shoulder finger elbow bosom forehead spirit temple body belly",
    },
    "grief": {
        "00010": "humiliation",
        "0010": "degradation persecution superstition",
        "01": (
            "despair contempt revenge remorse disdain conceit deceit defeat distress distrust fatigue neglect unrest"
        ),
        "010": (
            "repentance suspicion ambition bereavement corruption exhaustion impatience injustice misfortune sedition"
        ),
        "0100": "adversity calamity hostility ingratitude",
        "1": "grief shame doubt fear rage blame gloom greed guilt pain spite strife want war woe",
        "10": (
            "sorrow anger envy pity treason malice hatred silence hunger danger fury sadness sickness absence "
            "ruin scandal mischief madness folly anguish boredom bondage darkness falsehood famine hardship "
            "heartbreak rancour torment worry"
        ),
        "100": (
            "jealousy cruelty poverty idleness weariness loneliness vanity ignorance solitude misery agony "
            "arrogance avarice bitterness cowardice flattery heresy infamy injury insolence perjury "
            "pestilence ridicule rivalry servitude slavery suffering treachery tyranny"
        ),
        "1000": "melancholy",
    },
    "joy": {
        "0010": "admiration",
        "00100": "generosity hospitality",
        "01": "delight renown applause romance success",
        "010": ("devotion abundance affection compassion contentment discretion enchantment forgiveness indulgence"),
        "0100": ("felicity prosperity obedience fidelity humility magnificence nobility serenity simplicity sincerity"),
        "1": (
            "joy love hope pride faith truth youth bliss peace cheer ease fame grace health mirth praise rest "
            "strength thrift trust warmth wealth wit zeal"
        ),
        "10": (
            "mercy patience honour virtue courage wisdom beauty fortune justice gladness kindness laughter "
            "reason glory comfort friendship freedom plenty music content candour concord fragrance genius "
            "goodness greatness humour knowledge learning manhood passion pleasure prudence rapture splendour "
            "sunlight sweetness triumph valour wonder"
        ),
        "100": (
            "liberty charity gratitude tenderness modesty innocence constancy honesty majesty harmony "
            "chastity chivalry confidence courtesy decency dignity ecstasy elegance fortitude gentleness "
            "happiness luxury merriment piety poetry purity sympathy temperance"
        ),
        "11": "goodwill",
    },
}

ADJECTIVES: dict[str, dict[str, str]] = {
    "kind": {
        "01": "discreet forlorn sincere devout morose sedate polite severe profane accursed renowned",
        "010": "impatient ambitious unthankful ungrateful unhappy unlucky suspicious malicious beloved",
        "0100": "tyrannical notorious respectable",
        "1": (
            "proud brave bold shy meek sly false true kind mild rude wise old young poor rich lame blind "
            "stout lean tall grave vain rash stern just coy drunk mad sick lewd blunt plain strange cursed "
            "sad glad untaught"
        ),
        "10": (
            "honest cruel gentle foolish jealous faithful noble humble wicked merry greedy hungry thirsty "
            "weary sleepy angry gloomy haughty crafty worthy valiant learned spiteful wilful scornful "
            "mournful peevish stubborn sober prudent silent loyal royal doting pensive sullen timid modest "
            "lusty simple subtle witty nimble wretched famous hateful pretty fearful harmless hopeless "
            "shameless graceless friendly lonely comely lovely ugly guilty lucky happy hasty idle saintly "
            "silly giddy dainty drowsy nosy fussy portly bearded toothless fearless ragged barefoot"
        ),
        "100": (
            "virtuous generous treacherous obstinate impudent insolent reverend courteous cowardly ignorant "
            "innocent quarrelsome talkative envious miserable penniless wandering"
        ),
        "1000": "melancholy venerable",
    },
    "fine": {
        "010": "embroidered enamelled forgotten neglected enormous unbroken unopened",
        "1": (
            "sharp smooth soft rough wet dry cold warm bright dull thick thin round square long short deep "
            "high low black white red green blue grey brown carved cracked torn worn bent old new small great "
            "fair foul"
        ),
        "10": (
            "golden silver broken ancient heavy rusty painted empty costly crooked narrow wooden leather "
            "velvet silken woollen iron copper marble crystal crimson scarlet yellow purple hollow slender "
            "ragged tattered dusty muddy mouldy polished gilded twisted blunted borrowed stolen little mighty "
            "tarnished foreign monstrous"
        ),
    },
    "dark": {
        "01": "divine accursed renowned absurd obscure supreme profound unknown untold unsought unblest",
        "010": (
            "pernicious auspicious contentious uncertain untimely ungentle infernal eternal immortal beloved "
            "delicious suspicious outrageous courageous enchanting mistaken forsaken"
        ),
        "0100": "ridiculous unspeakable notorious mysterious victorious melodious extravagant magnificent",
        "01000": "insufferable",
        "1": (
            "strange cursed lost rare sweet sour vile base dear grim sad glad dread blessed famed prized "
            "scorned feared loved false fresh"
        ),
        "10": (
            "bitter secret sudden fatal idle hateful famous precious wretched hidden noble pretty lasting "
            "fleeting dreadful fearful joyful doubtful shameful painful careless harmless worthless priceless "
            "matchless luckless hapless needful lawful sacred holy fickle humble common simple subtle ugly "
            "lovely lively deadly lonely homely comely earthly stormy sorry empty mighty solemn silent tragic "
            "comic royal rustic modest guilty happy lucky hasty friendly costly weighty ghostly saintly "
            "sinful blameless nameless shameless endless restless boundless fearless graceless helpless "
            "hopeless useless senseless"
        ),
        "100": (
            "heavenly glorious marvellous perilous dangerous ruinous scandalous miserable fiery tedious "
            "hideous odious envious tormenting forbidden ominous villainous treasonous poisonous fabulous"
        ),
        "1000": "honourable memorable",
    },
    "sore": {
        "010": "unwilling contented unlucky",
        "1": "cold warm sore bruised weak strong faint numb",
        "10": (
            "weary heavy broken steady faithful frozen burning hollow bitter gentle bleeding idle feeble "
            "withered wounded ready empty restless quiet swollen stricken foolish tender willing"
        ),
        "100": "trembling",
    },
}

VERBS: dict[str, dict[str, str]] = {
    "take": {
        "01": "unlock display repair destroy restore exchange",
        "010": "inherit",
        "1": (
            "sell:sold buy:bought mend burn lend:lent pawn drop:dropped catch:caught carve paint wash "
            "bring:brought bend:bent clutch lift heave toss snatch hoard split:split find:found lose:lost "
            "kick"
        ),
        "10": ("bury polish borrow pocket pilfer plunder gather handle hammer trample scatter shatter measure carry"),
    },
    "find": {
        "01": (
            "despise neglect regret:regretted reveal conceal defend admire observe suspect renounce describe "
            "refuse reject command possess preserve betray commend condemn demand deserve redeem restore"
        ),
        "010": "remember abandon desire surrender deliver discover dishonour consider",
        "1": (
            "find:found lose:lost seek:sought mark curse bless praise fear mock scorn name doubt prize miss "
            "want leave:left dread hate watch guard keep:kept judge"
        ),
        "10": "mention envy covet recall value borrow follow cherish challenge purchase",
    },
    "love": {
        "01": (
            "deceive embrace beguile obey accuse entice instruct reward entreat pursue salute offend insult "
            "persuade bewitch enchant delight amaze applaud rebuke reprove protect employ delay detain "
            "surprise"
        ),
        "010": "astonish",
        "1": "love trust wrong serve court nurse help warn greet cheat plague vex teach:taught",
        "10": "pity console marry comfort flatter honour slander torment threaten punish pardon",
    },
    "weep": {
        "01": "rejoice complain despair lament repent return depart",
        "1": (
            "weep:wept sigh laugh sing:sang dance kneel:knelt pray swear:swore shout groan moan blush frown "
            "smile snore limp ride:rode walk drink:drank starve rage yield"
        ),
        "10": (
            "wander tremble whisper stumble grumble linger falter mutter hasten languish murmur "
            "stagger shiver ponder labour"
        ),
    },
    "sleep": {
        "01": "return depart decay rejoice remain endure awake:awoke",
        "1": ("sleep:slept wait fall:fell rise:rose fade burn shine:shone sing:sang weep:wept stir:stirred mourn"),
        "10": "vanish perish flourish wither tremble linger wander murmur whisper shiver slumber glimmer listen",
    },
}

ADVERBS: dict[str, dict[str, str]] = {
    "adv": {
        "010": "devoutly profoundly sincerely obscurely politely",
        "10": (
            "softly gladly sadly slowly boldly humbly proudly wisely madly truly falsely kindly sweetly "
            "roundly plainly coldly warmly darkly lightly rudely bravely meekly sternly fairly nobly idly "
            "daily nightly often blandly blindly brightly calmly clearly closely crossly cruelly deeply "
            "dearly dimly dumbly faintly fiercely fondly frankly freely gently gravely grimly gruffly harshly "
            "hoarsely hotly jointly justly keenly lamely limply loosely loudly mildly mutely neatly oddly "
            "partly poorly promptly purely quaintly queerly quickly rashly richly roughly safely sharply "
            "shyly smoothly smugly soundly stiffly stoutly strangely strictly swiftly thickly thinly tightly "
            "vainly vaguely vastly vilely weakly wildly"
        ),
        "100": (
            "merrily secretly heartily bitterly patiently hastily wearily greedily faithfully shamefully "
            "willingly cheerfully tenderly desperately silently suddenly foolishly honestly absently "
            "anxiously artfully awkwardly bashfully cleverly courteously eagerly earnestly easily fervently "
            "gallantly gracefully happily haughtily jealously joyfully lazily loyally modestly openly "
            "properly quietly solemnly timidly utterly valiantly warily zealously"
        ),
        "1000": "curiously furiously generously innocently",
    },
}
