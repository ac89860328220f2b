"""The plays: where they are set, who is in them, and how each speaks.

A name is followed by the stress pattern of what others call its bearer, and by `v` (blank verse), `l` (loose verse,
of eight or nine syllables) or `p` (prose).
"""

from dataclasses import dataclass

from data.pastiche.forms import Filler
from data.pastiche.grammar import LOOSE, PROSE, STRICT

PLAYS = {
    "The Salt Widow": (
        "Orlavento/0010 Pescaro/010 Tarsa/10",
        "Bellamira/0010/v Corvano/010/v Tessaly/100/v Pandrel/10/l Gobbin/10/p Lucastro/010/v "
        "Old_Marrow/?10/p Dorinda/010/l",
    ),
    "The King at Ferrow": (
        "Ferrow/10 Aldermere/100 Wyke/?",
        "Aldric/10/v Rosmunda/010/v Hestor/10/v Wilmot/10/l Bartle/10/p Edrith/10/v Lord_Tamsin/?10/v Crumb/?/p",
    ),
    "Two Suitors of Sienora": (
        "Sienora/0010 Valdispo/010 Montarro/010",
        "Fiametta/0010/v Leontro/010/v Salvestro/010/l Zanetto/010/p Cassimer/100/v Ottavine/100/v Pippolo/100/p",
    ),
    "The Wreck of the Heron": (
        "Skarholm/10 Nordey/10 Brill/?",
        "Captain_Jory/1010/l Ingrith/10/v Svenmar/10/v Haldane/10/v Boatswain/10/p Thorold/10/v Limpet/10/p",
    ),
    "The Miller's Heir": (
        "Dunbarrow/010 Applewick/100 Stoke/?",
        "Gillian/10/l Hobday/10/p Ambrose/10/v Mistress_Quill/10?/p Squire_Penrow/?10/v Jessamy/100/v Nab/?/p",
    ),
    "Tarquil and Almira": (
        "Carthena/010 Lybora/010 Massilo/010",
        "Tarquil/10/v Almira/010/v Servandus/010/v Decimar/100/v Flavo/10/l Philomon/100/v Stiltio/100/p",
    ),
    "A Wager in Gaunt": (
        "Gaunt/? Brabanza/010 Ostrel/10",
        "Claes/?/p Margriet/100/l Van_Hollen/?10/v Josper/10/v Katrijn/01/v Dirkin/10/p Emmerich/100/v",
    ),
    "The Ghost of Holm Abbey": (
        "Holm/? Thornley/10 Saltash/10",
        "Father_Anselm/1010/v Sister_Maud/10?/v Lady_Isolt/1001/v Sir_Gervase/?10/v Perkin/10/p First_Monk/??/l "
        "Sexton_Rudge/10?/p",
    ),
    "The Doctor of Padrova": (
        "Padrova/010 Arquina/010 Treviso/010",
        "Doctor_Balsam/1010/p Celestina/0010/v Horatian/0100/v Mercurin/100/l Nurse_Tibb/??/p Vittorel/100/v "
        "Angelon/100/v",
    ),
    "The Siege of Marenne": (
        "Marenne/01 Lorcy/10 Valmont/01",
        "Montferrel/010/v Duchess_Odile/1001/v Gaston/10/l Rambure/01/v First_Soldier/?10/p Second_Soldier/1010/p "
        "Yvaine/01/v Trumpeter/100/l",
    ),
    "Shepherds of Arvane": (
        "Arvane/01 Lissom/10 Greenhithe/10",
        "Corydel/100/v Phillida/100/v Damoset/100/l Mopso/10/p Amaranth/100/v Silvan/10/v Old_Thenot/?10/l",
    ),
    "The Watch of Clapper Mere": (
        "Clapper/10 Mere/? Fenwater/100",
        "Constable_Hogg/100?/p First_Watchman/?10/p Second_Watchman/1010/p Justice_Plumley/1010/l Barnaby/100/v "
        "Felicia/010/v Sir_Hugh/??/v",
    ),
    "The Masque of Winter": (
        "Elsinburg/100 Roskild/10 Tarnow/10",
        "Prince_Oswin/?10/v Princess_Elfreda/10010/v Poltroy/10/l Fabrizel/100/v Motley/10/p Chamberlain/100/v "
        "Helvig/10/v",
    ),
    "The Bond of Zara": (
        "Zara/10 Ragusel/100 Corfino/010",
        "Isacco/010/v Perdonna/010/v Grimaldo/010/v Notary/100/p Lorenzel/100/v Bianthe/010/v Tubbolo/100/p "
        "Advocate/100/l",
    ),
}

_METRES = {"v": STRICT, "l": LOOSE, "p": PROSE}


@dataclass(frozen=True)
class Speaker:
    """A character: as headed in the text, as called by others, and the metre of their speech."""

    heading: str
    called: Filler
    metre: str


@dataclass(frozen=True)
class Play:
    """A title, the towns it speaks of and its cast."""

    title: str
    towns: tuple[Filler, ...]
    cast: tuple[Speaker, ...]


def _speaker(entry: str) -> Speaker:
    name, pattern, manner = entry.split("/")
    name = name.replace("_", " ")
    heading = name if name.startswith(("First", "Second")) else name.upper()
    return Speaker(heading, Filler(name, pattern), _METRES[manner])


def _play(title: str, towns: str, cast: str) -> Play:
    places = (town.split("/") for town in towns.split())
    return Play(title, tuple(Filler(*place) for place in places), tuple(map(_speaker, cast.split())))


ALL_PLAYS = tuple(_play(title, *parts) for title, parts in PLAYS.items())
