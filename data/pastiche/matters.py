"""What the speakers of a scene dwell on, by its matter: the lines that give a scene its subject."""

VERSE = {
    "ring": """
My {role} gave it me beneath the {sky}, / And bade me keep it with a {kind} {limb}.
A gift once lost is {fine} as a {thing}.
They {found} a jewel {when} by the {spot}.
I wore it {adv} next to my {sore} {limb}.
Gold cannot {sleep}, nor can {kind} {roles} {weep}.
She set it on my finger, and then {wept}.
""",
    "letter": """
I read it {adv}, and the ink was {fine}.
The words were few, {you}, but they {slept} {adv}.
Three {roles} rode all night, and none of them {wept}.
It bore the hand of {name}, and no seal.
A line of ink may {love} a {kind} {role}.
It came from {town} in a {fine} {thing}, / And on the cover was the word {grief}.
""",
    "quarrel": """
He struck me with a {thing} before the {spot}.
My sword was {fine} ere {name} learned to {weep}.
I'll meet thee, {you}, {where}, and alone.
No {role} bites his thumb at me, and {weeps}.
Blood will have blood, though {kind} {roles} {weep}.
We fought {when}, till the {sky} {slept} with shame, / And neither {role} would give up the field.
""",
    "wooing": """
Her eyes are {skies}, and her {limb} is {sore}.
Love is a {beast} that {sleeps} in a {thing}.
I sang beneath her {fine} window {when}.
O let me kiss the {limb} that I have {loved}.
She looked on {name}, and the {sky} {slept}. / No {sky} since then hath been half so {fine}.
A lover's {limb} is a {fine} {thing}.
""",
    "wager": """
I laid my {thing} on a {fine} {beast} {when}.
The {beast} ran {adv}, and the {roles} {wept}.
He that bets {joy} shall be paid in {grief}.
Ten crowns to one, the {kind} {role} {weeps}.
Luck is a {role}: she {loves} and she {weeps}.
I won it of {name}, who lost a {thing}, / And went to {town} on foot, and there {wept}.
""",
    "war": """
The foe hath burned the {spot}, and {town} {weeps}.
Ten thousand {roles} marched by the {fine} {spot}.
Our spears were {fine}, and our {limbs} were {sore}.
I saw the flags of {name} above the {spot}.
War is a {role} that {loves} no {kind} {role}.
The drums did {sleep} {when}, and the wounded {wept}, / And on the walls of {town} stood {kind} {roles}.
""",
    "ghost": """
At twelve it came, and the {beasts} did {sleep}.
It had no {limb}, and its {limb} was {sore}.
It spoke of {grief}, and pointed to the {spot}.
The dead {sleep} {adv} in the {fine} {spot}.
It wore a {fine} {thing}, as {name} wore / The night they laid the {role} in the earth.
I prayed, and still it {slept} {where}, and {wept}.
""",
    "debt": """
I lent him {things}, and he paid me with {grief}.
The law is {dark}, and its {limb} is {sore}.
Three months are gone, and the {role} {weeps}.
Let the court say if {name} be a {role}.
I ask no more than is writ: my {thing}.
He swore to pay me {when}, and set his hand, / And now the {role} {weeps} in {town}, and pays not.
""",
    "voyage": """
The waves were {fine} as a {spot}, and we {wept}.
We sailed from {town} in a {fine} {thing}.
The sea hath {grief} for a {kind} {role}.
Nine days we drank the rain, and then {name} {wept}.
The wind did {sleep}, and the {fine} ropes {slept}.
A whale rose up as great as {town} {spot}, / And all our {kind} {roles} began to {weep}.
""",
    "crown": """
The old king {weeps}, and his {limb} is {sore}.
Who rules in {town} must {weep} and be {kind}.
I set no store by {roles} in {fine} {things}.
They met {when}, the {roles}, in a {spot}.
Let {name} reign, and let {kind} {roles} {weep}.
A king is but a {role} with a {thing}, / And every {role} would be a {kind} king.
""",
    "sickness": """
My blood is {fine}, and my {limb} is {sore}.
He gave me herbs that did {sleep} in my {limb}.
Death is a {role} that {weeps} in no {spot}.
The {limb} once {sore}, the {limb} will be {sore}.
{name} lay sick {when}, and the {roles} {wept}.
No drug in {town} can heal a {sore} {limb}, / When {grief} {sleeps} where {joy} was wont to {sleep}.
""",
    "feast": """
We dined {when} on {beasts}, and the {roles} {wept}.
There's {beast} enough, and a {fine} {thing} of ale.
Let the board {sleep} with {things} and with {beasts}.
An empty belly is a {dark} {role}.
{name} ate a {beast}, and then {wept} for more.
Come, set the {things} upon the {fine} board, / And call the {roles} in, and let them {weep}.
""",
    "dream": """
I dreamed {when} that a {beast} {found} the {sky}.
Methought I stood in a {fine} {spot}, and {wept}.
The signs are {dark}: a {beast} {slept} {where}.
What {roles} dream, the {skies} {find} and {sleep}.
In sleep I saw {name} in a {fine} {thing}, / That {wept}, and held out to me a {thing}.
The seventh night the moon was {fine}, and {slept}.
""",
    "flock": """
The sheep {sleep} {adv} by the {fine} {spot}.
My dog is {kind}, and my crook is {fine}.
The corn is {fine}, and the {roles} {weep}.
I sheared {when}, and the {sky} was {fine}.
A {beast} came by and took a lamb {where}, / And I {wept} {adv} till the {sky} {slept}.
Green {spots} {sleep} where {name} used to {weep}.
""",
    "masque": """
I played a {role}, and the {roles} did {weep}.
Put on thy mask, and speak like a {role}.
The lines I learned {sleep} in my {sore} {limb}.
{name} shall enter in a {fine} {thing}.
All {town} will come, and {kind} {roles} will {weep}.
A king I was {when}, with a {fine} {thing}; / Tonight I am a {beast}, and I must {weep}.
""",
    "thief": """
We heard him {when}, and he dropped a {thing}.
He climbed the wall and {took} a {fine} {thing}.
The dogs {slept}, and the {kind} {role} {slept}.
They took him {where} with a {thing} of {name}'s.
Law is a net that {finds} the {kind} {role}.
His hat was {fine}, and his {limb} was {sore}; / He had a {thing}, and a {thing} beneath his coat.
""",
}
PROSE = {
    "ring": """
It shone like a {beast}'s eye, sir, and my {role} would never take it off to {weep}.
I have looked in every {thing} and under every {beast}.
""",
    "letter": """
It was writ so {adv} that the {role} read it for a bill of {beasts}.
I cannot read, {you}, but I can smell {grief} through paper.
""",
    "quarrel": """
He called me {role}, and I called him {beast}, and so we fell to blows.
I am a peaceable {role}, but I have a {thing} at home.
""",
    "wooing": """
When I went wooing, I took a {beast} under my arm, and she kissed the {beast}.
Love is well enough for {roles}, but it never mended a {thing}.
""",
    "wager": """
I have lost my {thing} and my {thing}, and now they play for my {limb}.
A wise {role} bets on the {beast} with the shortest {limb}.
""",
    "war": """
I was in the wars at {town}, and ran away with the bravest {roles}.
Give me no drums; I had rather hear a {beast} {sleep}.
""",
    "ghost": """
I saw it plain, sir: it had the head of a {beast} and the {limb} of a {role}.
If it come again, I am {where}, and not to be found.
""",
    "debt": """
I owe a {thing} to every {role} in {town}, and two to the {role} at the corner.
The law is a {beast} that eats {things} and is never full.
""",
    "voyage": """
I was so sick at sea that I {wept} upon a {role}, and he upon a {beast}.
Give me a dry {spot} and a {thing}, and let the fishes drink the rest.
""",
    "crown": """
Kings come and go, but a {role} must still mend his {thing}.
I saw the king once, and he was no taller than a {role}.
""",
    "sickness": """
The doctor gave me a {beast} boiled in milk, and charged me for the {thing}.
I have such a pain in my {limb} that I can tell when a {role} will {weep}.
""",
    "feast": """
I could eat a {beast} and the {thing} it came in.
They had {beasts} in sauce, and {beasts} in jelly, and for me a {thing}.
""",
    "dream": """
I dreamed I was a {beast}, and my wife a {role}, and we were never happier.
The stars told my {role} he would drown, and he fell off a {thing}.
""",
    "flock": """
There's a ewe of mine that is wiser than any {role} in {town}.
I talk to the sheep, {you}, for they never say I am {kind}.
""",
    "masque": """
I am to play a {thing}, sir, and have but one word, which is {grief}.
Last year I played the hind part of a {beast}, and the {roles} {wept}.
""",
    "thief": """
I was asleep upon my watch, as a good {role} should be, when a {thing} fell on me.
If he be a {role}, let him go; if he be a {beast}, I have a {thing} for him.
""",
}
