"""A small made-up world of tools: functions, questions about them, right calls, results and answers.

Both the pretraining text of the bundled base model (pretrain.py) and the sample trajectories (sample.py) are drawn from
here. Everything is a function of the `random.Random` that is passed in. Words are combined, never looked up: 24 domains
with about eight things each, 20 actions, 70 parameters. `held_out(thing)` names the things whose functions neither the
base model nor the training file ever sees.
"""

import hashlib
import random
from dataclasses import dataclass, field

# ------------------------------------------------------------------------------------------------ words

ACTIONS = {  # the verb of a function name -> the ways a person asks for it
    "get": ["get", "show me", "give me", "tell me", "fetch"],
    "find": ["find", "look for", "search for"],
    "list": ["list", "show all of"],
    "check": ["check", "look at", "verify"],
    "book": ["book", "reserve"],
    "cancel": ["cancel", "call off"],
    "create": ["create", "make", "set up"],
    "delete": ["delete", "remove", "erase"],
    "update": ["update", "change", "edit"],
    "send": ["send", "deliver"],
    "order": ["order", "buy"],
    "compare": ["compare"],
    "calculate": ["calculate", "work out", "compute"],
    "convert": ["convert", "turn over"],
    "track": ["track", "follow"],
    "schedule": ["schedule", "plan"],
    "start": ["start", "begin", "turn on"],
    "stop": ["stop", "end", "turn off"],
    "rate": ["rate", "review"],
    "translate": ["translate"],
}

DOMAINS = {  # domain -> (things with the actions that make sense for them, parameters)
    "travel": (
        {"hotel room": "book cancel find", "flight": "book cancel find track", "train ticket": "book cancel order",
         "rental car": "book cancel compare", "city tour": "book find rate", "airport transfer": "book schedule",
         "travel insurance": "order compare", "visa rules": "get check", "cruise cabin": "book find"},
        "city country date nights guests budget airline pets"),
    "weather": (
        {"weather forecast": "get check", "air quality": "get check", "storm warning": "get list",
         "pollen level": "get check", "sunrise time": "get", "snow depth": "get compare", "tide table": "get list",
         "wind speed": "get convert", "rain radar": "get start"},
        "city date days unit latitude longitude hourly"),
    "food": (
        {"pizza": "order cancel", "restaurant table": "book cancel find", "recipe": "find create delete",
         "grocery list": "create update delete", "meal plan": "create update", "calorie count": "calculate get",
         "food delivery": "order track cancel", "wine": "find order rate", "lunch menu": "get send"},
        "dish city guests date time ingredients spicy quantity"),
    "music": (
        {"playlist": "create delete update", "song": "find rate start", "concert ticket": "order cancel find",
         "album": "find order rate", "radio station": "start stop list", "song lyrics": "get translate",
         "piano lesson": "book cancel", "podcast": "find start stop", "music video": "find send"},
        "artist genre year title volume shuffle quantity"),
    "finance": (
        {"stock price": "get track compare", "loan payment": "calculate schedule", "bank transfer": "create cancel",
         "exchange rate": "get convert", "savings goal": "create update", "tax report": "create send get",
         "credit score": "get check", "bond yield": "get compare", "mortgage cost": "calculate compare"},
        "amount currency account years rate company date"),
    "health": (
        {"doctor visit": "book cancel schedule", "blood test": "book get", "sleep report": "get send",
         "medicine reminder": "create delete", "heart rate": "track get", "body mass": "calculate track",
         "vaccine dose": "schedule check", "eye exam": "book cancel", "step count": "get track"},
        "person date time weight height doctor dose"),
    "fitness": (
        {"workout": "create start stop", "gym class": "book cancel find", "running route": "find create",
         "yoga session": "start schedule", "training plan": "create update", "swim lane": "book check",
         "bike ride": "track start", "race result": "get compare", "step goal": "update create"},
        "minutes level city distance person date"),
    "home": (
        {"thermostat": "update check", "living room light": "start stop", "washing machine": "start stop",
         "door lock": "check update", "robot cleaner": "start schedule", "alarm system": "start stop check",
         "garden sprinkler": "start schedule", "coffee machine": "start stop", "window blind": "update check"},
        "room temperature time minutes mode silent brightness"),
    "calendar": (
        {"meeting": "create cancel update", "reminder": "create delete", "birthday": "create list",
         "holiday": "list check", "time slot": "find book", "team event": "schedule cancel",
         "deadline": "create update", "phone call": "schedule cancel", "invitation": "send cancel"},
        "title date time minutes people place repeat"),
    "mail": (
        {"email": "send delete find", "newsletter": "send cancel", "draft": "create delete update",
         "mail folder": "create delete", "spam filter": "create update", "contact": "create delete find",
         "text message": "send delete", "fax": "send", "signature": "create update"},
        "email subject folder person urgent text"),
    "shopping": (
        {"product": "find order compare", "shopping cart": "update get", "gift card": "order check",
         "parcel": "track send", "discount code": "check find", "product review": "create delete",
         "return label": "create send", "price alert": "create delete", "wish list": "create update"},
        "product color size quantity price brand email"),
    "school": (
        {"course": "find book cancel", "exam result": "get send", "homework": "create check send",
         "library book": "find order", "class schedule": "get update", "scholarship": "find check",
         "tutor": "find book rate", "school bus": "track check", "science project": "create rate"},
        "student subject grade date school level"),
    "math": (
        {"triangle area": "calculate", "circle radius": "calculate get", "square root": "calculate get",
         "prime factor": "list get", "average": "calculate compare", "matrix sum": "calculate",
         "cube volume": "calculate convert", "median": "calculate get", "vector length": "calculate"},
        "width height number numbers digits precise"),
    "code": (
        {"repository": "create delete find", "pull request": "create list check", "unit test": "start stop create",
         "bug report": "create update find", "server log": "get delete send", "database table": "create delete",
         "code style": "check update", "build job": "start stop track", "access token": "create delete"},
        "project branch language version user verbose"),
    "science": (
        {"star position": "get calculate", "chemical formula": "find get", "planet mass": "get compare",
         "cell count": "calculate track", "fossil record": "find list", "earthquake report": "get list",
         "gene sequence": "find compare", "ocean depth": "get compare", "moon phase": "get check"},
        "name year latitude longitude unit number"),
    "sports": (
        {"match score": "get track", "team ranking": "get compare", "player profile": "get find",
         "season ticket": "order cancel", "league table": "get list", "tennis court": "book cancel",
         "transfer news": "find list", "golf course": "find book rate", "injury report": "get send"},
        "team player season date city limit"),
    "movies": (
        {"movie": "find rate order", "cinema seat": "book cancel", "film actor": "find list",
         "movie trailer": "find start", "watch list": "create update", "television series": "find rate",
         "film award": "list check", "subtitle file": "find translate", "documentary": "find rate"},
        "title genre year language limit city adult"),
    "transport": (
        {"bus route": "find check", "taxi": "order cancel", "parking space": "find book",
         "traffic report": "get send", "ferry": "book check", "charging station": "find rate",
         "metro card": "order update", "road toll": "calculate check", "scooter": "book find"},
        "origin destination time passengers date limit"),
    "housing": (
        {"apartment": "find rate compare", "rent payment": "schedule calculate", "moving truck": "book cancel",
         "house viewing": "schedule cancel", "cleaning service": "book order", "lease contract": "create cancel get",
         "repair request": "create track", "energy bill": "get check", "storage unit": "book find"},
        "city rooms price date furnished address pets"),
    "work": (
        {"job offer": "find compare", "resume": "create update send", "vacation request": "create cancel",
         "salary report": "get compare", "work shift": "schedule update", "expense report": "create send",
         "job interview": "schedule cancel", "office desk": "book check", "invoice": "create send delete"},
        "company person date hours salary city remote"),
    "garden": (
        {"plant care": "get check", "seed order": "create track cancel", "soil test": "order get",
         "tree pruning": "schedule cancel", "watering plan": "create update", "flower bouquet": "order send",
         "compost bin": "order find", "lawn mower": "start stop", "greenhouse": "check update"},
        "plant month quantity area indoor color"),
    "pets": (
        {"vet appointment": "book cancel", "dog walker": "find book rate", "pet food": "order find",
         "cat sitter": "find book", "pet passport": "create check", "puppy class": "book find",
         "flea treatment": "order schedule", "bird cage": "order compare", "aquarium": "order check"},
        "pet breed age weight date city"),
    "news": (
        {"news article": "find translate send", "headline": "list get", "weather map": "get send",
         "election result": "get compare", "opinion poll": "get create", "crossword": "get start",
         "press release": "create send", "local event": "find list", "obituary": "find list"},
        "topic country language date limit"),
    "language": (
        {"text": "translate check", "word meaning": "get find", "grammar rule": "find check",
         "vocabulary quiz": "create start", "pronunciation": "get rate", "flash card": "create delete",
         "essay": "rate check", "dialogue": "create translate", "idiom": "find translate"},
        "word language target level limit"),
}  # fmt: skip

CITIES = (
    "Bali Oslo Lima Paris Tokyo Cairo Delhi Rome Berlin Madrid Vienna Dublin Lisbon Prague Warsaw Athens Boston Denver "
    "Austin Seattle Chicago Toronto Sydney Perth Nairobi Lagos Accra Quito Bogota Santiago Havana Seoul Osaka Kyoto "
    "Hanoi Manila Jakarta Mumbai Dubai Doha Riga Vilnius Tallinn Helsinki Bergen Malmo Geneva Zurich Milan Turin "
    "Naples Porto Seville Valencia Lyon Nice Ghent Utrecht Leeds Bristol Cardiff Glasgow Cork Galway Split Zagreb"
).split()
PEOPLE = (
    "Anna Ben Clara David Emma Frank Grace Henry Ida Jack Karen Leo Maria Noah Olga Paul Quinn Rosa Sam Tina Uma Victor "
    "Wendy Xavier Yara Zoe Alice Bruno Carla Diego Elena Felix Gina Hugo Irene Jonas Kira Lars Mona Nils Oscar Petra"
).split()
COUNTRIES = "Norway Peru France Japan Egypt India Italy Germany Spain Austria Ireland Poland Greece Canada Kenya Ghana".split()
COMPANIES = "Apple Tesla Nokia Siemens Shell Boeing Intel Sony Volvo Nestle Toyota Philips Oracle Adobe Bayer Airbus".split()
LANGUAGES = "English French German Spanish Italian Polish Hindi Arabic Korean Swedish Dutch Greek Turkish Finnish".split()
COLORS = "red blue green black white yellow purple orange brown pink".split()
SYLLABLES = "ba be bo da de do fa fi ga go ka ke ko la le lo ma mi mo na ne no pa po ra re ri ro sa se so ta te to va vi za zo".split()
ENDINGS = ["", "", "n", "r", "s", "l", "x", "m"]


def made_up_word(rng: random.Random) -> str:
    """A word nobody has seen: copying is the only way to get it right."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))) + rng.choice(ENDINGS)


def name_like(rng: random.Random, known: list[str]) -> str:
    """A known name, or as often a made-up one."""
    return rng.choice(known) if rng.random() < 0.5 else made_up_word(rng).capitalize()


def phrase_of(rng: random.Random, known: list[str]) -> str:
    """One or two words."""
    first = name_like(rng, known)
    return (
        first
        if rng.random() < 0.6
        else f"{first} {rng.choice(known) if rng.random() < 0.5 else made_up_word(rng)}"
    )


# ------------------------------------------------------------------------------------------- parameters


@dataclass(frozen=True)
class Parameter:
    """One argument: its JSON schema, how to draw a value, how a question says it ({v} is the value as spoken)."""

    name: str
    schema: dict
    phrases: tuple[str, ...]
    draw: object  # Callable[[random.Random], value]

    def spoken(self, rng: random.Random, value: object) -> str:
        if isinstance(value, bool):
            return rng.choice(self.phrases) if value else "not " + rng.choice(self.phrases)
        return rng.choice(self.phrases).replace("{v}", as_words(value))


def as_words(value: object) -> str:
    """A value the way prose writes it: true/false as yes/no, a list as `a, b and c`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        words = [str(item) for item in value]
        return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    return str(value)


def _string(description: str, phrases: list[str], draw, **more) -> tuple:
    return {"type": "string", "description": description, **more}, tuple(phrases), draw


def _integer(description: str, phrases: list[str], low: int, high: int) -> tuple:
    return {"type": "integer", "description": description}, tuple(phrases), lambda rng: rng.randint(low, high)


def _number(description: str, phrases: list[str], high: int) -> tuple:
    return (
        {"type": "number", "description": description},
        tuple(phrases),
        lambda rng: rng.randint(1, high * 10) / 10,
    )


def _boolean(description: str, phrases: list[str]) -> tuple:
    return {"type": "boolean", "description": description}, tuple(phrases), lambda rng: rng.random() < 0.7


def _one_of(description: str, phrases: list[str], choices: list[str]) -> tuple:
    return (
        {"type": "string", "description": description, "enum": choices},
        tuple(phrases),
        lambda rng: rng.choice(choices),
    )


def _list(description: str, phrases: list[str], kind: str, draw) -> tuple:
    schema = {"type": "array", "description": description, "items": {"type": kind}}
    return schema, tuple(phrases), lambda rng: [draw(rng) for _ in range(rng.randint(2, 3))]


def _date(rng: random.Random) -> str:
    return f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _time(rng: random.Random) -> str:
    return f"{rng.randint(6, 22):02d}:{rng.choice(['00', '15', '30', '45'])}"


def _named(known: list[str]):
    return lambda rng: name_like(rng, known)


def _worded(known: list[str]):
    return lambda rng: phrase_of(rng, known)


THINGS = (
    "lamp chair phone bottle jacket camera guitar carpet pillow mirror ladder kettle basket helmet".split()
)
FOODS = "rice beans soup salad pasta bread cheese tomato garlic chicken lemon onion pepper butter".split()
TOPICS = "energy history space oceans trade robots travel forests bridges trains chess coffee".split()
PLANTS = "rose tulip basil mint fern maple cactus lavender ivy orchid".split()

_SPECS = {
    "city": _string("city name", ["in {v}", "for the city {v}"], _named(CITIES)),
    "country": _string("country name", ["in the country {v}", "for the country {v}"], _named(COUNTRIES)),
    "date": _string("date, year first", ["on {v}", "for the date {v}"], _date),
    "time": _string("time of day", ["at {v}"], _time),
    "nights": _integer("number of nights", ["for {v} nights"], 2, 14),
    "days": _integer("number of days", ["for {v} days", "over {v} days"], 2, 14),
    "years": _integer("number of years", ["over {v} years", "for {v} years"], 2, 40),
    "hours": _integer("number of hours", ["for {v} hours"], 2, 48),
    "minutes": _integer("length in minutes", ["for {v} minutes", "lasting {v} minutes"], 5, 120),
    "guests": _integer("number of guests", ["for {v} guests", "with {v} guests"], 2, 20),
    "passengers": _integer("number of passengers", ["for {v} passengers"], 2, 9),
    "rooms": _integer("number of rooms", ["with {v} rooms"], 2, 9),
    "quantity": _integer("how many", ["with quantity {v}", "in a quantity of {v}"], 2, 60),
    "limit": _integer("most results to give", ["with a limit of {v}", "limit {v}"], 2, 50),
    "budget": _integer("most to spend", ["with a budget of {v}", "on a budget of {v}"], 50, 3000),
    "price": _integer("highest price", ["up to a price of {v}", "at a price of {v}"], 10, 2000),
    "amount": _number("amount of money", ["with an amount of {v}", "for the amount {v}"], 900),
    "salary": _integer("salary per year", ["with a salary of {v}"], 1000, 9000),
    "rate": _number("yearly rate in percent", ["at a rate of {v}", "with the rate {v}"], 12),
    "weight": _number("weight in kilograms", ["with a weight of {v}", "weight {v}"], 90),
    "height": _integer("height", ["with a height of {v}", "height {v}"], 2, 220),
    "width": _integer("width", ["with a width of {v}", "width {v}"], 2, 220),
    "area": _number("area in square meters", ["on an area of {v}", "with an area of {v}"], 90),
    "age": _integer("age in years", ["with the age {v}", "age {v}"], 1, 19),
    "distance": _number("distance in kilometers", ["over a distance of {v}", "with the distance {v}"], 50),
    "temperature": _integer("degrees", ["with a temperature of {v}", "at temperature {v}"], 12, 95),
    "brightness": _integer("percent of full light", ["with brightness {v}", "at a brightness of {v}"], 5, 99),
    "volume": _integer("loudness", ["with volume {v}", "at volume {v}"], 1, 99),
    "dose": _integer("dose in milligrams", ["with a dose of {v}"], 5, 500),
    "digits": _integer("digits after the point", ["with {v} digits", "to {v} digits"], 1, 9),
    "number": _integer("a whole number", ["for the number {v}", "with number {v}"], 2, 9999),
    "year": _integer("year", ["from the year {v}", "of the year {v}"], 1950, 2026),
    "month": _integer("month of the year", ["in month {v}", "for month {v}"], 1, 12),
    "season": _integer("first year of the season", ["in the season {v}", "for season {v}"], 1990, 2026),
    "grade": _integer("school grade", ["in grade {v}", "for grade {v}"], 1, 12),
    "latitude": _number("latitude in degrees", ["at latitude {v}", "with latitude {v}"], 80),
    "longitude": _number("longitude in degrees", ["and longitude {v}", "with longitude {v}"], 170),
    "numbers": _list("list of numbers", ["for the numbers {v}", "of the numbers {v}"], "integer", lambda r: r.randint(1, 99)),
    "people": _list("names of those invited", ["with the people {v}", "for the people {v}"], "string", _named(PEOPLE)),
    "ingredients": _list("what it is made of", ["with the ingredients {v}"], "string", lambda r: r.choice(FOODS)),
    "unit": _one_of("unit of the result", ["in {v}", "with the unit {v}"], ["metric", "imperial"]),
    "currency": _one_of("currency", ["in the currency {v}", "in {v}"], ["euro", "dollar", "yen", "pound"]),
    "size": _one_of("size", ["in size {v}", "of {v} size"], ["small", "medium", "large"]),
    "level": _one_of("level of skill", ["at {v} level", "on the level {v}"], ["beginner", "middle", "expert"]),
    "mode": _one_of("mode of work", ["in {v} mode", "with the mode {v}"], ["eco", "normal", "turbo"]),
    "genre": _one_of("genre", ["of the genre {v}", "in the genre {v}"], ["rock", "jazz", "drama", "comedy", "folk"]),
    "pets": _boolean("pets are allowed", ["with pets", "taking pets"]),
    "hourly": _boolean("one value an hour", ["hourly"]),
    "spicy": _boolean("spicy food", ["spicy"]),
    "shuffle": _boolean("random order", ["with shuffle", "in shuffle"]),
    "silent": _boolean("without noise", ["silent"]),
    "repeat": _boolean("repeat every week", ["with repeat"]),
    "urgent": _boolean("is urgent", ["urgent", "as urgent"]),
    "precise": _boolean("exact result", ["precise"]),
    "verbose": _boolean("more output", ["verbose"]),
    "adult": _boolean("for adult viewers", ["for adult viewers"]),
    "furnished": _boolean("with furniture", ["furnished"]),
    "remote": _boolean("work from home", ["remote"]),
    "indoor": _boolean("kept inside", ["indoor", "kept indoor"]),
    "airline": _string("airline name", ["with the airline {v}", "on airline {v}"], _worded(COMPANIES)),
    "company": _string("company name", ["for the company {v}", "of {v}"], _named(COMPANIES)),
    "brand": _string("brand name", ["of the brand {v}", "by the brand {v}"], _named(COMPANIES)),
    "account": _string("account code", ["for account {v}", "on the account {v}"], lambda r: f"AC{r.randint(100, 999)}"),
    "person": _string("name of the person", ["for {v}", "for the person {v}"], _named(PEOPLE)),
    "student": _string("name of the student", ["for the student {v}", "for student {v}"], _named(PEOPLE)),
    "doctor": _string("name of the doctor", ["with doctor {v}", "by doctor {v}"], _named(PEOPLE)),
    "player": _string("name of the player", ["for the player {v}", "of player {v}"], _named(PEOPLE)),
    "artist": _string("artist name", ["by {v}", "by the artist {v}"], _worded(PEOPLE)),
    "user": _string("user name", ["for the user {v}", "by user {v}"], lambda r: r.choice(PEOPLE).lower() + str(r.randint(1, 99))),
    "email": _string("email address", ["to {v}", "for the email {v}"], lambda r: f"{name_like(r, PEOPLE).lower()}@mail.com"),
    "team": _string("team name", ["for the team {v}", "of team {v}"], _worded(CITIES)),
    "title": _string("title", ["called {v}", "with the title {v}"], _worded(TOPICS)),
    "subject": _string("subject", ["about {v}", "on the subject {v}"], _worded(TOPICS)),
    "topic": _string("topic", ["about {v}", "on the topic {v}"], _worded(TOPICS)),
    "text": _string("the text", ["saying {v}", "with the text {v}"], _worded(TOPICS)),
    "folder": _string("folder name", ["in the folder {v}", "in folder {v}"], _named(TOPICS)),
    "place": _string("place", ["at the place {v}", "in the place {v}"], _worded(CITIES)),
    "room": _string("room", ["in the {v}", "in the room {v}"], lambda r: r.choice(["kitchen", "bedroom", "bathroom", "office", "hall"])),
    "address": _string("street address", ["at the address {v}"], lambda r: f"{r.randint(1, 99)} {name_like(r, CITIES)} Street"),
    "origin": _string("where it starts", ["from {v}"], _named(CITIES)),
    "destination": _string("where it ends", ["to {v}"], _named(CITIES)),
    "school": _string("school name", ["at the school {v}", "at school {v}"], _named(CITIES)),
    "dish": _string("name of the dish", ["with the dish {v}", "with {v}"], _worded(FOODS)),
    "product": _string("product name", ["for the product {v}", "for a {v}"], _worded(THINGS)),
    "color": _string("color", ["in {v}", "in the color {v}"], lambda r: r.choice(COLORS)),
    "plant": _string("plant name", ["for the plant {v}", "for {v}"], _worded(PLANTS)),
    "pet": _string("name of the pet", ["for my pet {v}", "for {v}"], _named(PEOPLE)),
    "breed": _string("breed", ["of the breed {v}", "breed {v}"], _named(CITIES)),
    "project": _string("project name", ["in the project {v}", "for project {v}"], lambda r: made_up_word(r)),
    "branch": _string("branch name", ["on the branch {v}", "on branch {v}"], lambda r: made_up_word(r)),
    "version": _string("version", ["with version {v}", "for version {v}"], lambda r: f"{r.randint(1, 9)}.{r.randint(0, 20)}"),
    "language": _string("language", ["in {v}", "in the language {v}"], _named(LANGUAGES)),
    "target": _string("language to turn it into", ["into {v}"], _named(LANGUAGES)),
    "word": _string("the word", ["for the word {v}", "of the word {v}"], lambda r: made_up_word(r)),
    "name": _string("name", ["for {v}", "with the name {v}"], _worded(CITIES)),
}  # fmt: skip
PARAMETERS = {name: Parameter(name, *spec) for name, spec in _SPECS.items()}

RESULTS = {  # a field of an observation -> how to draw its value
    "price": lambda r: r.randint(5, 900), "status": lambda r: r.choice(["open", "closed", "ready", "late", "full"]),
    "code": lambda r: f"{r.choice('ABCDEF')}{r.choice('XYZ')}{r.randint(10, 99)}", "count": lambda r: r.randint(0, 99),
    "rating": lambda r: r.randint(10, 50) / 10, "total": lambda r: r.randint(10, 9999), "time": _time, "date": _date,
    "place": _named(CITIES), "owner": _named(PEOPLE), "value": lambda r: r.randint(1, 999) / 10,
    "label": lambda r: made_up_word(r),
}  # fmt: skip


# -------------------------------------------------------------------------------------------- functions


@dataclass(frozen=True)
class Function:
    """A tool: `action` and `thing` make its name; `required` come first, `optional` may be left unsaid."""

    name: str
    action: str
    thing: str
    required: tuple[Parameter, ...]
    optional: tuple[Parameter, ...] = ()

    def schema(self) -> dict:
        properties = {p.name: p.schema for p in (*self.required, *self.optional)}
        parameters = {"type": "object", "properties": properties, "required": [p.name for p in self.required]}
        return {"name": self.name, "description": f"{self.action} the {self.thing}", "parameters": parameters}


def held_out(thing: str) -> bool:
    """One thing in five, chosen by the hash of its words: its functions are kept for evaluation."""
    return hashlib.sha256(thing.encode()).digest()[0] % 5 == 0


def function_name(action: str, thing: str, domain: str | None) -> str:
    """`book_hotel_room`, or with a domain `travel.book_hotel_room`."""
    name = "_".join([action, *thing.split()])
    return f"{domain}.{name}" if domain else name


def all_functions() -> list[Function]:
    """Every function of the world in a fixed order; parameters and spelling follow from the function's words."""
    functions = []
    for domain, (things, names) in DOMAINS.items():
        for thing, actions in things.items():
            for action in actions.split():
                rng = random.Random(f"{domain} {thing} {action}")
                chosen = rng.sample(names.split(), min(rng.choice([1, 2, 2, 3, 3, 4]), len(names.split())))
                parameters = [PARAMETERS[name] for name in chosen]
                required = max(1, len(parameters) - rng.choice([0, 0, 1]))
                name = function_name(action, thing, domain if rng.random() < 0.2 else None)
                functions.append(
                    Function(name, action, thing, tuple(parameters[:required]), tuple(parameters[required:]))
                )
    return functions


# -------------------------------------------------------------------------------------------- questions


@dataclass
class Request:
    """What one user turn asks for and the calls that answer it."""

    question: str
    calls: list[tuple[Function, dict]] = field(default_factory=list)


def draw_arguments(rng: random.Random, function: Function) -> dict:
    """Values for all required and some optional parameters, in schema order."""
    said = [*function.required, *(p for p in function.optional if rng.random() < 0.5)]
    return {p.name: p.draw(rng) for p in said}


def arguments_in_words(rng: random.Random, function: Function, arguments: dict) -> str:
    """`in Bali for 3 nights`: the parameters in any order."""
    parameters = [p for p in (*function.required, *function.optional) if p.name in arguments]
    rng.shuffle(parameters)
    return rng.choice([" ", " ", ", "]).join(p.spoken(rng, arguments[p.name]) for p in parameters)


def say(rng: random.Random, action: str) -> str:
    """The verb itself or, as often, one of the ways to say it."""
    return action if rng.random() < 0.5 else rng.choice(ACTIONS[action])


def ask(rng: random.Random, calls: list[tuple[Function, dict]]) -> str:
    """One sentence that asks for all `calls`."""
    parts: list[str] = []
    for i, (function, arguments) in enumerate(calls):
        values = arguments_in_words(rng, function, arguments)
        if i and calls[i - 1][0] is function and rng.random() < 0.6:
            parts.append(values)  # the same again with other values
        else:
            parts.append(f"{say(rng, function.action)} the {function.thing} {values}")
    body = rng.choice([" and ", " and also ", ", then "]).join(parts)
    opening = rng.choice(["", "", "please ", "could you ", "can you ", "I want you to ", "hi, "])
    text = opening + body + ("?" if opening in ("could you ", "can you ") else ".")
    return text[0].upper() + text[1:]


def request(rng: random.Random, functions: list[Function], kind: str) -> tuple[Request, list[Function]]:
    """Draw a request of `kind` (simple, multiple, parallel, parallel_multiple, none) and the tools offered with it."""
    main = rng.choice(functions)
    calls = [(main, draw_arguments(rng, main))]
    if kind in ("parallel", "parallel_multiple"):
        other = main if kind == "parallel" else rng.choice([f for f in functions if f.name != main.name])
        calls.append((other, draw_arguments(rng, other)))
    used = {function.name: function for function, _ in calls}
    others = [
        f for f in functions if f.name not in used and (f.thing != main.thing or f.action != main.action)
    ]
    similar = [f for f in others if f.thing == main.thing] if kind != "none" else []
    extra = {"simple": 0, "parallel": 0, "none": rng.randint(1, 2)}.get(kind, rng.randint(1, 2))
    if kind == "none":
        others = [f for f in others if f.thing != main.thing]
        used = {}
    distractors = [rng.choice(similar if similar and rng.random() < 0.3 else others) for _ in range(extra)]
    tools = list({f.name: f for f in (*used.values(), *distractors)}.values())
    rng.shuffle(tools)
    return Request(ask(rng, calls), [] if kind == "none" else calls), tools


def draw_result(rng: random.Random) -> dict:
    """What a tool answers: one or two fields."""
    return {name: RESULTS[name](rng) for name in rng.sample(sorted(RESULTS), rng.randint(1, 2))}


def result_in_words(result: dict) -> str:
    """`the price is 120 and the status is open`."""
    return " and ".join(f"the {name} is {as_words(value)}" for name, value in result.items())
