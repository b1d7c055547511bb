"""Documents written for this project: records, lists, pages of facts, question sheets.

They are made from templates with a fixed seed. Records hold random values that the page repeats
further down, so that the base learns to copy from what it has read.
"""

import random
from collections.abc import Iterator

from checkpoints.recipe import facts

CITIES = (
    "Oakford",
    "Riverton",
    "Millbrook",
    "Ashby",
    "Lakeside",
    "Greenhill",
    "Stonebridge",
    "Westport",
    "Fairview",
    "Redwood",
    "Northam",
    "Elmstead",
)
FOODS = (
    "apples",
    "bread",
    "rice",
    "soup",
    "noodles",
    "pancakes",
    "cheese",
    "tomatoes",
    "fish",
    "beans",
    "carrots",
    "eggs",
    "pears",
    "honey",
    "pasta",
    "potatoes",
    "yogurt",
    "grapes",
    "onions",
    "butter",
    "plums",
    "milk",
    "oats",
    "peas",
)
ANIMALS = (
    "cat",
    "dog",
    "rabbit",
    "horse",
    "parrot",
    "goat",
    "hamster",
    "turtle",
    "pony",
    "duck",
    "hen",
    "lizard",
    "mouse",
    "goldfish",
)
PET_NAMES = (
    "Milo",
    "Luna",
    "Rusty",
    "Pepper",
    "Coco",
    "Biscuit",
    "Shadow",
    "Daisy",
    "Oscar",
    "Ginger",
    "Ziggy",
    "Pip",
    "Nala",
    "Bramble",
    "Toffee",
    "Waldo",
)
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black", "brown", "pink", "silver", "gray")
JOBS = (
    "teacher",
    "baker",
    "nurse",
    "farmer",
    "pilot",
    "painter",
    "driver",
    "cook",
    "writer",
    "singer",
    "gardener",
    "builder",
    "doctor",
    "tailor",
    "sailor",
    "clerk",
)
HOBBIES = (
    "painting",
    "chess",
    "swimming",
    "reading",
    "cooking",
    "fishing",
    "dancing",
    "hiking",
    "knitting",
    "football",
    "tennis",
    "gardening",
    "singing",
    "running",
    "sailing",
    "pottery",
)
THINGS = (
    "lamp",
    "chair",
    "bicycle",
    "kettle",
    "guitar",
    "clock",
    "camera",
    "umbrella",
    "backpack",
    "mirror",
    "piano",
    "ladder",
    "basket",
    "blanket",
    "drum",
    "kite",
    "pencil",
    "bucket",
)
ROOMS = ("kitchen", "garden", "attic", "hall", "library", "garage", "cellar", "bedroom", "office", "barn")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def sheet(choose: random.Random, title: str, lines: list[str]) -> str:
    """A page of questions or tasks, one a line: bare, numbered, bulleted or under a heading."""
    style = choose.randrange(6)
    if style <= 2:
        return "\n".join(lines)
    if style == 3:
        return "\n\n".join(lines)
    numbered = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    if style == 4:
        return f"{title.capitalize()}\n\n{numbered}"
    return f"{choose.choice(('Worksheet', 'Quiz', 'Questions for class', 'Test yourself', 'Homework'))}: {title}\n\n{numbered}"


def records(names: list[str], count: int = 24000) -> Iterator[str]:
    """Key-value pages: a block of fields, then sentences and a summary that repeat some of them."""
    choose = random.Random(19)
    makers = (_person, _shop, _parcel, _notes, _code_words, _register)
    for _ in range(count):
        yield choose.choice(makers)(choose, names)


def _person(choose: random.Random, names: list[str]) -> str:
    name, friend = choose.sample(names, 2)
    fields = {
        "Name": name,
        "Age": str(choose.randrange(5, 90)),
        "City": choose.choice(CITIES),
        "Job": choose.choice(JOBS),
        "Hobby": choose.choice(HOBBIES),
        "Favorite color": choose.choice(COLOURS),
        "Favorite food": choose.choice(FOODS),
        "Pet": f"a {choose.choice(ANIMALS)} called {choose.choice(PET_NAMES)}",
        "Best friend": friend,
    }
    sentences = {
        "Age": "{n} is {v} years old.",
        "City": "{n} lives in {v}.",
        "Job": "{n} works as a {v}.",
        "Hobby": "In the evening {n} enjoys {v}.",
        "Favorite color": "The favorite color of {n} is {v}.",
        "Favorite food": "{n} likes to eat {v}.",
        "Pet": "{n} has {v}.",
        "Best friend": "The best friend of {n} is {v}.",
    }
    kept = ["Name", *choose.sample(list(sentences), choose.randrange(3, 7))]
    block = "\n".join(f"{key}: {fields[key]}" for key in kept)
    told = kept[1:]
    choose.shuffle(told)
    prose = " ".join(sentences[key].format(n=name, v=fields[key]) for key in told)
    return f"{block}\n\n{prose}"


def _shop(choose: random.Random, names: list[str]) -> str:
    items = choose.sample(FOODS + tuple(thing + "s" for thing in THINGS), choose.randrange(3, 7))
    prices = {item: choose.randrange(1, 60) for item in items}
    table = "\n".join(f"{item}: {price} coins" for item, price in prices.items())
    asked = choose.sample(items, choose.randrange(2, min(4, len(items)) + 1))
    who = choose.choice(names)
    lines = " ".join(
        choose.choice(
            ("{w} pays {p} coins for the {i}.", "The {i} cost {p} coins.", "For {p} coins {w} gets the {i}.")
        ).format(w=who, p=prices[item], i=item)
        for item in asked
    )
    return f"Price list\n{table}\n\n{lines}"


def _parcel(choose: random.Random, names: list[str]) -> str:
    sender, receiver = choose.sample(names, 2)
    code = (
        "".join(choose.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
        + "-"
        + "".join(choose.choice("0123456789") for _ in range(4))
    )
    city, day, thing, colour = choose.choice(CITIES), choose.choice(DAYS), choose.choice(THINGS), choose.choice(COLOURS)
    return (
        f"Parcel {code}\nFrom: {sender}\nTo: {receiver}\nCity: {city}\nArrives: {day}\nContents: one {colour} {thing}\n\n"
        f"Dear {receiver}, your parcel {code} from {sender} arrives in {city} on {day}. Inside you will find one {colour} {thing}."
    )


def _notes(choose: random.Random, names: list[str]) -> str:
    people = choose.sample(names, choose.randrange(2, 5))
    where = {person: (choose.choice(COLOURS) + " " + choose.choice(THINGS), choose.choice(ROOMS)) for person in people}
    lines = [f"{person} put the {thing} in the {room}." for person, (thing, room) in where.items()]
    person = choose.choice(people)
    thing, room = where[person]
    ends = (
        f"Later {person} went back to the {room} to get the {thing}.",
        f"So the {thing} is in the {room}.",
        f"Who has the {thing}? It belongs to {person}.",
    )
    return " ".join(lines) + "\n" + " ".join(choose.sample(ends, 2))


def _code_words(choose: random.Random, names: list[str]) -> str:
    words = {choose.choice(THINGS): made_up_word(choose) for _ in range(choose.randrange(2, 5))}
    table = "\n".join(f"{key} = {value}" for key, value in words.items())
    lines = [f"In the secret language a {key} is called {value}." for key, value in words.items()]
    choose.shuffle(lines)
    return f"Secret words of {choose.choice(names)}\n{table}\n\n" + " ".join(lines)


def _register(choose: random.Random, names: list[str]) -> str:
    """Made-up words that come again further down, whole, in capitals and letter by letter."""
    words = [made_up_word(choose) for _ in range(choose.randrange(3, 6))]
    told = (
        "{w} is written {s}.",
        "The name {w} stands on the door of {n}.",
        "{n} calls the boat {w}.",
        "On the map it says {u}, which is {w} in small letters.",
        "Nobody but {n} has ever been to {w}.",
        "{w}, {w}, {w}, sang {n}.",
    )
    again = choose.sample(words, choose.randrange(2, len(words) + 1))
    lines = " ".join(
        choose.choice(told).format(w=word, u=word.upper(), s="-".join(word.upper()), n=choose.choice(names))
        for word in again
    )
    return f"New names: {', '.join(words)}.\n\n{lines}"


_ONSETS = "b c d f g h j k l m n p r s t v w y z bl br ch cl cr dr fl fr gl gr kl kr pl pr qu sc sh sk sl sm sn sp st str sw th tr tw vr wh x"
_VOWELS = "a a a e e e i i i o o o u u ai au ea ee ei ia ie io oa oo ou oi ue y"
_CODAS = "b ck d f g k l ll lk lm ln lt m mp n nd ng nk nt p r rd rk rm rn rt s sk ss st t th x z"


def made_up_word(choose: random.Random) -> str:
    """A pronounceable word from many sounds, of four to eleven letters, such as "Vreskoa": too many for a list."""
    onsets, vowels, codas = _ONSETS.split(), _VOWELS.split(), _CODAS.split()
    while True:
        syllables = [
            choose.choice(onsets) + choose.choice(vowels) + (choose.choice(codas) if choose.random() < 0.4 else "")
            for _ in range(choose.choice((1, 2, 2, 2, 3, 3)))
        ]
        word = "".join(syllables)
        word = word[1:] if choose.random() < 0.1 and word[0] in "bdfghjklmnprstvwz" and word[1] in "aeiou" else word
        if 4 <= len(word) <= 11:
            return word.capitalize()


def lists(count: int = 6000) -> Iterator[str]:
    """Lists that go on: shopping, packing, colours, animals, to-do."""
    choose = random.Random(23)
    kinds = {
        "Shopping list": FOODS,
        "Things to pack": THINGS,
        "Animals on the farm": ANIMALS,
        "Colors to buy": COLOURS,
        "Hobbies in our club": HOBBIES,
        "Jobs": JOBS,
        "Rooms to clean": ROOMS,
        "Towns to visit": CITIES,
    }
    for _ in range(count):
        title, items = choose.choice(list(kinds.items()))
        picked = choose.sample(items, choose.randrange(4, min(11, len(items))))
        mark = choose.choice(("- {}", "* {}", "{}", "{n}. {}"))
        body = "\n".join(mark.format(item, n=i) for i, item in enumerate(picked, 1))
        yield choose.choice((f"{title}:\n{body}", f"{title}\n\n{body}", body))


def _by_group() -> list[list[facts.Fact]]:
    groups: dict[str, list[facts.Fact]] = {}
    for fact in facts.load():
        groups.setdefault(fact.group, []).append(fact)
    return list(groups.values())


def fact_pages(count: int = 9000) -> Iterator[str]:
    """Pages that state the everyday facts: prose and tables."""
    choose = random.Random(31)
    everyday, groups = facts.load(), _by_group()
    for _ in range(count):
        group = choose.choice(groups)
        picked = choose.sample(group, min(len(group), choose.randrange(4, 10)))
        style = choose.randrange(3)
        if style == 0:
            yield f"{picked[0].group.replace('_', ' ').capitalize()}\n" + "\n".join(
                f"{fact.subject}: {fact.value}" for fact in picked
            )
        else:
            told = picked if style == 1 else choose.sample(everyday, choose.randrange(4, 9))
            yield " ".join(fact.fill(choose.choice(fact.say)) for fact in told)


def fact_sheets(count: int = 1500) -> Iterator[str]:
    """Questions about the everyday facts that nobody answers, and below them facts of another kind."""
    choose = random.Random(43)
    everyday, groups = facts.load(), _by_group()
    for _ in range(count):
        asked = choose.sample(everyday, choose.randrange(2, 7))
        group = choose.choice(groups)
        told = choose.sample(group, min(len(group), 5))
        yield (
            sheet(choose, "general knowledge", [fact.fill(choose.choice(fact.ask)) for fact in asked])
            + "\n\n"
            + " ".join(fact.fill(choose.choice(fact.say)) for fact in told)
        )
