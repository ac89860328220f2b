"""What prose speakers say, and the short replies of everyone. Pools as in verse.py, in sentences of any length."""

SHORT = {
    "short:where": """
Where? Under thy nose, {you}.
Not where the {topic} should be.
I have no {topic}.
The {topic}? {where}.
Ask {name} for the {topic}.
In {town}, where the {topic} was born.
""",
    "short:who": """
Who but {name}?
No {role} that I know.
The {topic} knows, {you}.
I, {you}; I and the {topic}.
A {role}, a mere {role}.
Thy {role}, {you}.
""",
    "short:why": """
For the {topic}, {you}.
Why not, {kind} {you}?
Because the {topic} is mine.
For {joy}'s sake and the {topic}'s.
The {topic} can tell thee why.
Ask the {topic}.
""",
    "short:whether": """
Not the {topic}, {you}.
Ay, the {topic} indeed.
No, {oath}.
Ay, {you}, {oath}.
Never the {topic}, I say.
I think so; the {topic} thinks not.
""",
    "short:bid": """
I will not, {oath}.
The {topic}? With all my {limb}.
Must I? The {topic} is {dark}.
Let {name} see to the {topic}.
I fly, {you}.
No {topic} for me, {you}.
""",
    "short:charge": """
I, the {topic}? Never!
Thou liest about the {topic}.
The {topic} is none of mine.
I deny the {topic}.
A {topic}! What {topic}, {you}?
Who swears to this {topic}?
""",
    "short:news": """
The {topic}! O {grief}!
Alas, {kind} {topic}!
When came this of the {topic}?
I knew it of the {topic}.
Then all is {topic} and {grief}.
Good news for the {topic}.
""",
    "short:vow": """
Swear not by the {topic}.
Amen to the {topic}.
A {dark} vow, {you}.
Will the {topic} hold thee to it?
I'll have the {topic}, not the oath.
""",
    "short:saw": """
A {topic} may be so.
Thou art {kind} about the {topic}.
Not my {topic}, {you}.
And so is a {beast}.
What, the {topic} too?
""",
    "short:broken": """
The {topic}! Go on.
Peace with thy {topic}!
What of the {topic}?
No more of this {topic}.
Hush, {you}! The {topic}!
""",
    "short:retort": """
The {topic} again?
So much for the {topic}.
Still the {topic}!
Even so, {you}.
O {topic}, O {grief}!
I'll hear no more of the {topic}.
Thy {topic}, not mine.
""",
}
HEADS = {
    "head:where": """
Where is your {topic}? Why, where a {role} would keep a {thing}: {where}.
Marry, sir, I laid the {topic} {where}, and a {beast} sat upon it.
The {topic} went to {town} with a {kind} {role}, and neither came home to supper.
If your {topic} is not {where}, then I am a {beast} and no {role}.
I looked for that {topic} {when}, and found a {fine} {thing} and two {things}.
""",
    "head:who": """
Who, say you? A {role} as {kind} as a {beast}; he asked for the {topic} and would not pay.
I name no names, but {name} came out with the {topic} under a {fine} {thing}.
It was some {role} from {town}; they have no {topic} there, and are forced to {find} ours.
Three {roles} had the {topic} among them, and not one could {take} a {thing}.
I saw a {role}'s {limb} upon the {topic}, and the rest of the {role} was in the {spot}.
""",
    "head:why": """
Because, sir, a {topic} without a {thing} is a {beast} without a {limb}.
Why, because my {role} told me the {topic} was good against {grief}.
There be three reasons for the {topic}: a {thing}, a {role}, and I forget the third.
Reason? I never gave a reason for a {topic} since I was a {role}.
I did it to {love} a {role}, and the {topic} did the rest.
""",
    "head:whether": """
Truly, I did and I did not: I saw the {topic}, but my {limb} was {sore}.
No more than a {beast} would {find} a {topic}, {oath}.
Ay, if by the {topic} you mean a {fine} {thing}; if not, no.
As sure as the {topic} is a {topic}, I was in {town} {when}.
Yes, {you}, and would again, though every {role} in {town} should {find} the {topic}.
""",
    "head:bid": """
I will fetch the {topic} when I have eaten, and not a {thing} sooner.
What, I? I am too {kind} to {find} the {topic}; send a {role}.
The {topic} shall be with you before a {beast} can {sleep}.
You may as well bid a {beast} {weep} as bid me {find} the {topic}.
For the {topic}, {you}, I'd go to {town} in a {fine} {thing}.
""",
    "head:charge": """
I {find} the {topic}? I was {where} with a {role}, and can bring a {beast} to swear it.
Call me {role} if you will, but say not I {found} the {topic} {adv}.
Truly the {topic} came to me of itself, like a {beast} to a {kind} {role}.
I confess the {topic}, sir, but I deny the {thing}.
There is not a {role} in {town} that hath not {found} a {topic}; why pick on me?
""",
    "head:news": """
The {topic}, said you? Then I'll to {town}, and {weep} with my {role}.
This is {dark} news: my {role} had a {thing} laid upon that {topic}.
I dreamt as much of the {topic}: I saw a {beast} in a {thing}, and it {slept}.
If the {topic} be {found}, who shall pay for the {fine} {thing}?
Tell it not to my {role}; the {topic} will make her {weep}.
""",
    "head:vow": """
Fine words, sir; but a {topic} will not mend a {fine} {thing}.
I knew a {role} that swore as much by a {topic}, and died in a {spot}.
Save your breath for the {topic}; it hath more need of it than a {role}.
I would not take the {topic} on such an oath, nor a {thing} neither.
Swear me the {topic} again, and put a {thing} to it, and I am your {role}.
""",
    "head:saw": """
That is well said of a {topic}; my {role} said it of a {beast}.
Your {topic} may be so, but my {thing} is {fine}, and that is the end of it.
I understand not the {topic}, but I like the {thing} at the end.
You speak of the {topic} like a {role} that never paid for a {thing}.
If the {topic} be that, what is a {beast}?
""",
    "head:broken": """
Out with it! What did the {topic} then? Did it {sleep}?
Nay, sir, if you choke upon the {topic}, I must {weep}.
I pray you leave the {topic} there; my {role} sits in the {spot}.
The rest of the {topic} I can guess: there was a {role} and a {thing}.
""",
    "head:retort": """
Call you that the {topic}? I have seen a better in a {thing}.
I say no more of the {topic}; a {role} may {weep} and keep his {limb}.
Well, the {topic} is the {topic}, and a {thing} is a {thing}.
You have the {topic} by the wrong {limb}, {you}.
Let us leave the {topic} to the {beasts}, and speak of a {fine} {thing}.
""",
}
TAILS = {
    "tail:where": """
But where is the {key*} now, for I promised it to a {role}?
Do you know in what {spot} a man might {find} a {key*}?
Where, I ask, was the {key*} {when}, when I wanted it?
""",
    "tail:who": """
And who, I pray you, is to {find} the {key*} now?
What {role} hath been at the {key*}?
Who would have thought a {role} could {find} such a {key*}?
""",
    "tail:why": """
Now tell me why a {key*} should {find} a {role}, and not a {role} a {key*}.
Wherefore did you {find} the {key*}, being a {role}?
But why must the {key*} {sleep} when I {weep}?
""",
    "tail:whether": """
Had you never a {key*} of your own, {you}?
Is a {key*} worth more than a {fine} {thing}, or less?
Did {name} {find} the {key*}, or was it a {beast}?
""",
    "tail:bid": """
I pray you, {you}, {find} the {key*} and say nothing to the {role}.
Get me the {key*} and a {fine} {thing}, and quickly.
Stand aside, and let the {key*} {sleep}.
""",
    "tail:charge": """
I will tell your {role} that you {found} the {key*}.
You smell of the {key*}, {you}; you have been {where}.
It was you, {role}, that {found} my {key*} and {took} my {thing}.
""",
    "tail:news": """
They say in {town} that the {key*} is {found} and the {role} {weeps}.
I had it from a {role}: {name} {found} the {key*} {when}.
There is news of the {key*}: it was seen {where} with a {beast}.
""",
    "tail:vow": """
I'll {find} the {key*}, {oath}, or never touch a {thing} again.
If I {find} not the {key*}, call me a {beast}.
By this {thing}, I will {love} the {role} that hath the {key*}.
""",
    "tail:saw": """
A {key*} is but a {thing} that hath been to {town}.
He that hath a {key*} may {weep}; he that hath none must {sleep}.
My {role} said ever, a {key*} in the {spot} is worth two in the {thing}.
""",
    "tail:broken": """
And there, sir, was the {key*}, and beside the {key*}, by your leave, a {role}--
I tell you, the {key*} was {fine}, and the {role}, look you, the {role}--
""",
}
BODIES = {
    "body": """
I had a {role} once that would {weep} at a {fine} {thing}.
My {role} was a {kind} {role}, and left me a {thing} and a {fine} {thing}.
Give me a {thing} and a {kind} {role}, and I will {sleep} like a {beast}.
There is no {role} in {town} but hath a {beast} in the {spot}.
I went to {town} {when}, and a {role} {took} my {thing}.
A {beast} may {sleep} in a {spot}, but a {role} must pay.
I {wept} {adv}, and the {role} {wept} too, and there was no {thing} between us.
What with {grief} and the {role}, my {limb} is {sore}.
When I was a {role} in {town}, we had {things} and {beasts} and no {grief}.
I would give my {fine} {thing} to see a {role} {weep}.
""",
    "open": """
Good morrow, {you}. I come from a {role} with a {fine} {thing} and an empty belly.
Stay, {you}; I have run from the {spot}, and my {limb} is {sore}.
Here's a day, {you}! The {beasts} {sleep} and the {roles} {weep}.
I was asleep {where}, {you}, when a {role} {took} my {thing}.
""",
}
