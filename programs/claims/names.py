"""The words that the invented world is made of. None of its people, places or works exists."""

from __future__ import annotations

from typing import Final

FIRST_NAMES: Final = (
    "Adela", "Anselm", "Beatrix", "Casimir", "Cordula", "Darius", "Edda", "Emeric", "Fenna",
    "Gideon", "Hedda", "Ignatius", "Isolde", "Jorun", "Kasper", "Leonie", "Lucan", "Mara",
    "Nestor", "Odile", "Orson", "Petra", "Quentin", "Rosalba", "Silvan", "Tamsin", "Ulric",
    "Verena", "Wendel", "Yselle",
)  # fmt: skip
SURNAMES: Final = (
    "Abernal", "Brackwater", "Calloway", "Dorran", "Eskelund", "Farrow", "Grimaldy", "Hawkesby",
    "Ingleton", "Jessamy", "Korvath", "Lindqvane", "Morrowind", "Nightingale", "Okonder",
    "Pellworth", "Quillon", "Rathbone", "Sandoval", "Thackeray", "Underhill", "Vellacott",
    "Wexcombe", "Yarrowby", "Zelenko",
)  # fmt: skip
TOWN_STARTS: Final = (
    "Alder", "Bram", "Corn", "Dun", "Elm", "Fair", "Gos", "Hart", "Ives", "Kell", "Lang", "Marl",
    "Nor", "Os", "Pen", "Rav", "Sel", "Thorn", "Vel", "Wick",
)  # fmt: skip
TOWN_ENDS: Final = ("bury", "combe", "dale", "ford", "haven", "mere", "stead", "wold")
RIVERS: Final = (
    "Aldra", "Brenna", "Cavel", "Dromma", "Esk Water", "Fallow", "Gelt", "Hathe", "Isk", "Jarrow",
    "Lethen", "Mirrow", "Nadder", "Orne", "Pallas", "Ruel", "Sarn", "Tavey",
)  # fmt: skip
ADJECTIVES: Final = (
    "Amber", "Broken", "Crooked", "Distant", "Empty", "Frozen", "Gilded", "Hollow", "Idle",
    "Last", "Nameless", "Painted", "Quiet", "Restless", "Scarlet", "Silent", "Sunken",
    "Tangled", "Unlit", "Wandering",
)  # fmt: skip
NOUNS: Final = (
    "Almanac", "Bell", "Carousel", "Causeway", "Clockmaker", "Compass", "Ferryman", "Garden",
    "Harbour", "Lantern", "Letter", "Lighthouse", "Mirror", "Orchard", "Passenger", "Quarry",
    "Shore", "Staircase", "Tide", "Winter",
)  # fmt: skip
COMPANY_STARTS: Final = (
    "Bluestone", "Copperleaf", "Dovetail", "Evergate", "Foxglove", "Greywing", "Highmoor",
    "Ironbridge", "Juniper", "Kingfisher", "Longacre", "Millrace", "Northlight", "Oakapple",
    "Peregrine", "Redcliff", "Saltmarsh", "Tidewater",
)  # fmt: skip
COMPANY_ENDS: Final = ("& Sons", "Brothers", "Manufactory", "Works")
BUILDING_STARTS: Final = (
    "Arbour", "Bellwether", "Cloister", "Drovers", "Exchange", "Falconers", "Granary",
    "Harvest", "Jubilee", "Kiln", "Lamplight", "Mariners", "Postern", "Rookery", "Saffron",
    "Tithe", "Vintners", "Weavers",
)  # fmt: skip
BUILDING_ENDS: Final = ("Court", "Gallery", "Hall", "House", "Pavilion", "Tower")

FIRST_JOBS: Final = (
    "a beekeeper", "a bookbinder", "a chemist", "a clockmaker", "a ferry pilot", "a lawyer",
    "a lighthouse keeper", "a mapmaker", "a miner", "a nurse", "a postman", "a schoolteacher",
    "a ship's cook", "a stonemason", "a telegraph operator", "a translator",
)  # fmt: skip
AWARDS: Final = (
    "the Amber Compass", "the Brass Heron", "the Crown of Reeds", "the Glass Anchor",
    "the Golden Plumb Line", "the Lantern Medal", "the Ninefold Star", "the Order of the Otter",
    "the Silver Thistle", "the White Oak Prize",
)  # fmt: skip
INSTRUMENTS: Final = (
    "accordion", "bassoon", "cello", "clarinet", "dulcimer", "flute", "harp", "mandolin", "oboe",
    "trombone", "viola", "zither",
)  # fmt: skip
FILM_GENRES: Final = (
    "a comedy", "a ghost story", "a musical", "a road movie", "a courtroom drama",
    "a spy thriller", "a war drama", "a western",
)  # fmt: skip
NARRATORS: Final = (
    "a baker", "a blind gardener", "a customs officer", "a deserter", "a governess",
    "a grave digger", "a pilot's widow", "a retired judge", "a stowaway", "a tax collector",
)  # fmt: skip
LENGTHS: Final = tuple(f"{hours} hours" for hours in ("two", "three", "four", "five", "six"))
PRODUCTS: Final = (
    "barometers", "bicycles", "cameras", "canned fish", "door locks", "fountain pens",
    "organ pipes", "raincoats", "sewing machines", "tractors", "umbrellas", "wind turbines",
)  # fmt: skip
USES: Final = (
    "a concert hall", "a covered market", "a courthouse", "a hospital", "a museum of maps",
    "a public library", "a railway station", "a theatre", "a town archive", "a weather station",
)  # fmt: skip
CRAFTS: Final = (
    "bell founding", "boat building", "cheese making", "cider pressing", "glass blowing",
    "lace making", "paper making", "pottery", "rope making", "salt works", "tile making",
    "wool dyeing",
)  # fmt: skip
LAKES: Final = (
    "Lake Amaran", "Lake Brisse", "Lake Corrow", "Lake Dunmar", "the Bay of Herons",
    "the Grey Sound", "the Northern Sea", "the Sea of Tarn",
)  # fmt: skip
RANGES: Final = (
    "the Ashen Hills", "the Corbel Mountains", "the Drake Fells", "the Hollow Peaks",
    "the Mistral Heights", "the Sable Ridge",
)  # fmt: skip
