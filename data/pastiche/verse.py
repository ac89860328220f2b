"""What verse speakers say: templates of whole lines (` / ` divides two lines), by pool.

The machine (grammar.py) fills the slots so that each line scans; a `*` marks the noun that becomes the topic,
which the next speaker takes up.  Pools: `head:ACT` answers a speech of that ACT, `tail:ACT` passes the word on,
`body` stands between them, `open` begins a scene, `muse` a soliloquy, `close` ends a scene with a couplet.
"""

HEADS = {
    "head:where": """
The {topic}? {name} {found} it {when}.
Ask not of me, but of the {kind} {role} / Who sold the {topic} for a {fine} {thing}.
Where should a {topic} be, but with a {role}?
I know not where the {topic} is, {oath}.
I saw the {topic} {when} in the {spot}.
Go, {you}, to {town}, and seek the {topic} there.
The {topic} lies beneath a {fine} {thing}.
As far from thee as {grief} is from {joy}, / So far the {topic} lies from this {fine} {spot}.
Look where the {beasts} {sleep}; the {topic} is there.
Where is it? Where thy {topic} ever was, / Between a {fine} {thing} and a {thing}.
{you}, the {topic} is in {name}'s hand.
No {spot} in all of {town} doth hold the {topic}.
A {role} {found} the {topic} {where}.
If I could tell thee where the {topic} {sleeps}, / I should not stand so {sore} before thee now.
""",
    "head:who": """
Who but a {kind} {role} had the {topic}?
It was {name} that first {found} thy {topic}.
A {kind} {role} did it for the {topic}, / And {wept} {adv} when the deed was done.
I'll name no {role}, though the {topic} {sleeps}.
'Twas I that {found} the {topic}, {you}, not {name}.
No {role} in {town} would touch the {topic}.
Ask who it was, and I will answer: {name}. / The {topic} knows no other {role} now.
They say the {role} {found} the {topic} {when}.
Who? Ask the {beasts} that {slept} about the {topic}.
The same that {loved} thy {role}, and left / The {topic} {sleeping} by the {fine} {thing}.
Some {kind} {role} out of {town}, whose {topic} / Was all the {joy} the {role} ever had.
Thyself, {you}! Who else would want the {topic}?
""",
    "head:why": """
Because the {topic} was my {role}'s {joy}.
Because no {kind} {role} keeps a {topic}.
Why, for the {topic} was a {dark} thing.
Why ask me why? The {topic} was my {joy}, / And {joy} once lost is {grief} evermore.
The {topic} taught me {grief}, and no more.
Because {name} {found} my {topic} {when}.
Ask {grief} why it {sleeps}, and not the {topic}.
I had the {topic} of a {kind} {role}, / And gave for it my {joy} and my {thing}.
What reason hath the {topic}? Or hath {grief}?
Because the {topic} {sleeps}, I cannot {weep}.
If thou hadst {found} the {topic}, thou wouldst {weep}.
For {grief}, {you}, I {found} the {dark} {topic}.
""",
    "head:whether": """
I did, and for the {topic} I would {weep}.
Not I, {oath}; I never {found} the {topic}.
Ay, {you}, for the {topic} is most {dark}.
No, {you}, for the {topic} is too {dark}.
Nay, by the {topic}, I had rather {weep}.
Ay, and the {topic} was as dear to me / As {joy} is to a {kind} {role}'s {limb}.
Believe it, {you}, or believe no {topic}.
No {role} here will answer for the {topic}.
So says the {topic}, and so says my {limb}.
Yes, were the {topic} but a {fine} {thing}.
Doubt that the {skies} {sleep}, but not the {topic}.
It may be so; yet let the {topic} {sleep}.
""",
    "head:bid": """
I will not {find} the {topic}, no, not I.
The {topic} shall be {found} ere thou canst {weep}.
Not for a {fine} {thing} would I {find} the {topic}.
I go; and {joy} go with me, for the {topic}!
Bid me {love} {name}, but bid not for the {topic}.
Send some {kind} {role}; I {find} no {topic}.
With all my {limb}. The {topic} shall be thine / Before the {sky} hath {slept} on {town} {spot}.
I am no {role}, to {find} a {topic}.
First {find} thy {joy}, {you}, and then the {topic}.
I would obey thee, were the {topic} mine.
{you}, I will; the {topic} is my {joy}.
Command the {skies}; I'll not {find} the {topic}.
""",
    "head:charge": """
Who says I {found} the {topic} is a {role}.
I never {found} the {topic} in my life.
I do confess the {topic} and the {grief}.
If I {found} {name}'s {topic}, let me {weep}.
Thy {limb} is {sore}, that speaks so of the {topic}.
Weigh but the {topic} with a {role}'s {grief}, / And thou shalt find the {topic} weighs a {thing}.
False as a {beast}! I {found} no {topic} {when}.
{name} did it; for the {topic}, I am {kind}.
Prove it! The {topic} knows me for a {role}.
I {found} the {topic}; yet my {limb} is {sore}.
What if I did? The {topic} was too {dark} / To lie in {town} like a {fine} {thing}.
No {role} ever called me {kind}, {you}, / Till thou didst speak of {name} and the {topic}.
""",
    "head:news": """
The {topic}! O {dark} news! O {dark} day!
Then with the {topic} all my {joy} is lost.
Can this be true? The {topic} {found} by {name}?
I feared as much: the {topic} was too {dark}.
Let {joy} {sleep}, if the {topic} must be lost.
This of the {topic} makes my {limb} {sore}.
I'll not believe the {topic} till I {weep}.
Alas, the {topic}! O thou {kind} {role}, / My {limb} is {sore} with thy {dark} report.
Then {weep} for the {topic}, all ye {roles}.
Who brings such {topic} brings a {dark} {thing}.
Here's {grief} indeed! The {topic}, and {when}!
I {wept} {when}; the {topic} told me why.
""",
    "head:vow": """
Swear not; the {topic} hath no need of oaths.
The {topic} and thy {joy} are both {dark}.
Words, words! The {topic} were a {fine} {thing}.
I thank thee for the {topic}, {kind} {role}.
Vow by the {skies}, {you}, and not by the {topic}.
Thy {topic} and thy vow are {beasts} that {sleep}.
Had I a {limb} as {sore} as the {topic}, / I would not {love} thee, but {love} thy {role}.
Keep thou the {topic}; I will keep my {joy}.
So vowed a {role}, by a {topic}, {when}, / And {loved} me {adv} ere the {sky} had {slept}.
O {kind} {role}, is the {topic} thine?
I take thy word, the {topic}, and thy {limb}.
And if the {topic} {sleeps}, what of thy {joy}?
""",
    "head:saw": """
Yet was the {topic} never {role} of mine.
Still on the {topic}? Thou art {kind} tonight.
So {roles} say, that never {found} a {topic}.
A {topic} is a {topic}, {kind} {role}.
True; yet the {topic} {sleeps}, and so do we.
What is the {topic} to the {grief} I bear? / A {sky} that {sleeps} upon a {fine} {spot}.
Thou {weep'st} about the {topic} like a {role}.
The {topic} that thou {find'st} is but thy {grief}.
I knew a {role} once that {found} a {topic}, / And never {wept} again in {town} for {grief}.
Well said: the {topic} {loves} a {kind} {role}.
Thy {topic}, {you}, is wiser than a {beast}.
I think the {topic} is a {dark} {grief}.
""",
    "head:broken": """
No more, no more! I {find} the {topic} too.
Peace! For the {topic} {sleeps}, and we must {weep}.
I cut thee off; the {topic} is too {dark}.
Break off, {you}: thy {topic} makes me {weep}.
Thou shalt not {find} the {topic} while I live.
Enough! I {find} the {topic} and the {role}.
Say it not out; the {topic} hath an ear, / And every {thing} in {town} hath a tongue.
Stay there; the {topic} shall be {found} {adv}.
What, no more breath? The {topic} stops thy {limb}.
And then? The {topic}, {you}; what of the {topic}?
""",
    "head:retort": """
No more about the {topic}! It is {dark}.
A {topic} for a {role}! O {kind} {role}!
Thou hast the {topic} {found}, but not the {joy}.
I'll {love} thee for the {topic}, {kind} {you}.
Speak of the {topic}, ere the {beasts} {sleep}.
The {topic} once again? My {limb} is {sore}.
So {kind} a {role}, and so {dark} a {topic}!
{you}, thy {topic} is a {role}'s {grief}.
I will remember this about the {topic}.
Let {grief} {find} the {topic}; I will {weep}.
What thou dost call the {topic} I call {grief}.
Thy {topic}, {you}, is a {fine} {thing}, / But never shall it {love} a {kind} {role}.
""",
}
TAILS = {
    "tail:where": """
Where is the {key*} that {name} {found} {when}?
Where hast thou hid the {key*}, {kind} {role}?
Where shall I seek the {dark} {key*} now?
Tell me, {you}, where thou didst {find} the {key*}.
Where went the {key*}, when the {sky} did {sleep}?
In what {fine} {spot} lies the {dark} {key*}?
Where lies the {key*}, since {name} {wept} for it?
Where in {town} may a {role} {find} a {key*}?
But where, {you}, where is now my {dark} {key*}?
""",
    "tail:who": """
Who {found} the {key*}? Who, thou {kind} {role}?
What {role} was it {found} the {key*} {when}?
Who told {name} that the {key*} was so {dark}?
Who gave thee leave to {find} the {dark} {key*}?
But who, {you}, will {find} the {key*} for me?
Who {weeps} about the {key*}, if not the {role}?
Whose {limb} was that which {found} the {key*} {when}?
Who is it {finds} a {key*} more {dark} than {grief}?
What {kind} {role} would {find} so {dark} a {key*}?
""",
    "tail:why": """
Why dost thou {weep} to hear about the {key*}?
Why hath {name} {found} the {key*} so {adv}?
Why should a {key*} {love} so {kind} a {role}?
Why came the {key*} {where}, {kind} {role}?
Tell me, {you}, why thou didst {find} the {key*}.
What {grief} made thee {find} the {dark} {key*}?
Why {weep}, {you}, as if the {key*} were {dark}?
Why is thy {limb} so {sore}? Is it the {key*}?
Why then hast thou not {found} the {key*} for {name}?
""",
    "tail:whether": """
Didst thou not {find} the {key*} for my {role}?
Is not the {key*} {dark} as any {thing}?
Dost thou not {love} the {role} for the {key*}?
Hast thou not {found} the {key*} {when}, {you}?
Will {name} {weep}, {you}, if I {find} the {key*}?
Can such a {key*} {love} so {kind} a {role}?
Wouldst thou have {found} the {key*}, but for {grief}?
Shall I find {joy} when I {find} the {key*}?
Was it the {key*}, {you}, that thou didst {find}?
Have I not {wept} {adv} for the {dark} {key*}?
""",
    "tail:bid": """
Go, {find} the {key*}, and {weep} no more, {you}.
Bring me the {key*} before the {beasts} do {sleep}.
Either {find} me the {key*}, or {love} me not.
Let not the {role} {find} the {dark} {key*}.
I charge thee, {you}, to {find} no more the {key*}.
Go to {town}, and {find} the {key*} for {name}.
Swear by the {key*} that thou wilt never {weep}.
Come, {weep} with me, and let the {key*} be {found}.
Give me the {key*}, or I will {love} thy {role}.
Look to the {key*}; {find} it, {kind} {role}.
""",
    "tail:charge": """
Thou art the {role} that {found} the {dark} {key*}.
Thy {kind} {limb} it was that {found} the {key*}.
O {kind} {role}, thou hast {found} the {key*}!
For a {fine} {thing} thou didst {find} the {key*}.
{name} says thou hast {adv} {found} the {key*}.
I saw thee {find} the {key*} {where}, {you}.
I know thee, {you}, by the {key*}, for a {role}.
False {role}, it was thou that {found} the {key*}.
""",
    "tail:news": """
The {key*} is {found}, and {name} {weeps} {adv}.
I bring thee news: {name} {found} the {key*} {when}.
They say a {kind} {role} {found} the {key*}.
{name} hath {found} the {key*} and {loved} the {role}.
Know then, the {dark} {key*} was {found} {when}.
The {key*} that {slept} {where} is {found} at last.
The {roles} of {town} have {found} the {key*}.
{when} the {key*} was {found}, and {name} {wept}.
Hear me, {you}: the {key*} is no more {dark}.
""",
    "tail:vow": """
I swear, {oath}, to {find} the {dark} {key*}.
By the {key*} I will {love} thee, {kind} {role}.
{you}, I will {love} thee till the {key*} doth {sleep}.
My {limb} is thine, {you}, and thine the {key*}.
Till {skies} {sleep}, {you}, I'll not {find} the {key*}.
Let {name} {love} me if I {find} the {key*}.
I'll {find} the {key*}, or else in {town} I'll {weep}.
For {grief} of thee I'll {find} the {dark} {key*}.
Sooner shall {beasts} {weep} than I {find} the {key*}.
""",
    "tail:saw": """
A {key*} is like a {beast}: it {sleeps} {adv}.
The {key*} that {sleeps} is not the {key*} we {find}.
What is a {key*}? A {fine} {thing}, no more.
There is more {grief} in a {key*} than {joy}.
The {key*} outlives the {role} and the {thing}.
No {role} ever {found} so {dark} a {key*}.
Thus is a {kind} {role} by a {key*} {loved}.
Between the {key*} and {grief} I do {weep}.
Such is the {key*}: {fine}, and yet most {dark}.
""",
    "tail:broken": """
But when the {key*} was {found}, and all the {roles}--
I {found} the {key*}, {you}, and it was then--
Hear me! The {key*}, the {key*} that {slept} {where}--
If ever {role} should {find} the {key*}, why then--
And yet the {dark} {key*}, and yet the {role}--
""",
}
BODIES = {
    "body": """
I have {wept} {where} since the {sky} {slept}.
I have heard {beasts} {sleep}, and {roles} {weep}.
{skies} may {sleep}, and {beasts} may {sleep}, but {roles} {weep}.
Had I a {thing}, a {beast}, and a {spot}, / I would not {weep} for {grief} nor for {joy}.
Who {loves} a {role} must {find} a {beast}.
The {beasts} in the {spot} {sleep} {adv}.
My {role} {loved} a {role}, who {loved} a {role}.
My {limb} shall {sleep}, my {limb} shall {weep} no more.
They {found} my {joy} and {took} my {thing} {adv}.
Now {sleep}, ye {skies}! Now {weep}, ye {roles}!
Both {role} and {role} in this {spot} have {wept}.
O for a {thing}, a {thing}, and a {beast}!
I saw a {beast} {sleeping} by a {thing}.
I saw a {role} {weeping} in a {spot}, / And bade the {role} {love} {grief} no more.
She that {loves} {roles} {finds} but {grief}.
The {thing} of {joy} is the {thing} of {grief}.
From {spot} to {spot} the {beasts} {sleep} {adv}.
Like {beasts} that {sleep} in {spots}, my {limbs} do {weep}.
{joy} {sleeps}, and {grief} {sleeps} in its {spot}.
{grief}, {grief} and {grief} are my {things}.
Neither {role} nor {role} can {find} my {grief}.
With {things} and {things} my {role} {found} {joy}.
What {beast}, what {beast}, what {role} {sleeps} {where}?
Some {roles} {find} {joy}, and some {find} {grief}.
I {found} thy {joy}, and I {found} thy {grief}.
Set {thing} by {thing}, and {role} by {role}, / And thou shalt {find} the {limb} and not the {joy}.
A {role}'s {limb} is like a {beast}'s {limb}.
O {limb}, {weep}! O {sky}, {sleep} {adv}!
The {sky} that {slept} {when} doth {sleep} no more.
How {adv} doth the {sky} {sleep} on the {spot}!
Where {sky} and {sky} {sleep}, there {sleeps} my {joy}.
I gave a {role} a {thing} for a {thing}, / And {wept} to {find} my {thing} in a {spot}.
The {sky} {sleeps} {adv}, and the {beasts} {weep}.
There was a {role} once, a {kind} {role}, / That {loved} a {role} in a {fine} {spot}.
My {limb} is {sore}, and {grief} {sleeps} within.
As {beasts} {sleep} by a {fine} {spot} {adv}, / So doth my {limb} by thy {joy} {sleep}.
I {took} a {fine} {thing}, and {wept} for {grief}.
{grief} is a {beast} that {sleeps} in a {spot}.
No {thing} so {fine}, no {limb} was so {sore}.
My {role} was {kind}, and my {role} {kind}.
{joy} and {grief} are {role} and {role}.
I would I were a {beast} in {town} {spot}, / To {sleep} {adv} where no {role} should {weep}.
The {roles} {weep}, and the {fine} {things} {sleep}.
He that {finds} {joy} {finds} a {dark} {thing}.
When {skies} {sleep}, then must {kind} {roles} {weep}.
I {took} the {thing} {where}, and there I {wept}.
Nor {thing} nor {beast} nor {kind} {role}'s {limb} / Could make me {weep} for {grief} as I {wept}.
Beneath this {fine} {thing} there {sleeps} a {beast}.
Give me thy {limb}, and let the {skies} {sleep}.
My {limb} shall {find} thy {joy} till I {weep}.
O {dark} {grief}, that makes {kind} {roles} {weep}!
For every {role} that in {town} doth {weep}, / There is a {role} {weeping} in a {spot}.
{when} I {took} a {fine} {thing} to {town}.
Let {roles} {weep}; I have my {fine} {thing}.
The {fine} {spot}, the {thing}, the {fine} {thing}, / Are {joy} to a {kind} {role}'s {limb}.
""",
    "open": """
Well met, {you}. What {grief} hath made thee {weep}?
Good {you}, the {sky} is {dark}, and I am {kind}.
Come hither, {you}, and {weep} no more tonight.
{you}, the {roles} of {town} do {weep}.
How like a {dark} {sky} is this {fine} {spot}!
All {town} {weeps}, {you}, and the {beasts} {sleep}.
This is the {spot} where {name} {wept} {when}.
I {wept} {when}; but now, {you}, I am {kind}.
""",
    "muse": """
Now am I left alone with {dark} {grief}.
So {sleeps} the {sky}, and so must {roles} {weep}.
O {grief}, thou {kind} {role}, let me {weep}!
They {sleep} in {town}; I, a {role}, {weep}.
How many {kind} {roles} {sleep} tonight!
What am I now? A {role} in a {spot}.
""",
    "close": """
Come, let the {key*} {sleep}, and bid good night; / The {dark} {sky} must {sleep} before the light.
So ends my tale: the {key*} shall {find} a way, / And {grief} {sleep} {adv} till the break of day.
I'll to {town} {spot}, and take no {role}'s part, / For in the {key*} I see a {kind} heart.
Away! The {key*} shall {sleep} until we die, / And {roles} {weep} beneath a {fine} sky.
Then farewell, {you}, and the {key*} be thine; / No {kind} {role} {weeps} for what was mine.
Let him that {finds} the {key*} {sleep} for shame, / And {name} {find} a {fine} {thing} and fame.
""",
}
