"""What customers write, by what they want. Slots in braces are filled in by the generator."""

from __future__ import annotations

from typing import Final

PRODUCTS: Final = tuple(
    f"{brand} {thing}"
    for brand, things in {
        "Alto": ("kettle", "toaster", "hand mixer", "milk frother"),
        "Brio": ("desk lamp", "floor lamp", "fan heater", "extension lead"),
        "Corvo": ("headset", "speaker", "power bank", "phone charger"),
        "Delma": ("hair dryer", "beard trimmer", "curling iron", "heating pad"),
        "Estia": ("blender", "rice cooker", "pressure cooker", "waffle iron"),
        "Fjell": ("bike light", "action camera", "sports watch", "walkie-talkie"),
    }.items()
    for thing in things
)

GREETINGS: Final = (
    "Hello,", "Hi there,", "Good morning,", "Good evening,", "Dear team,", "Hey,", "Hi,",
    "To whom it may concern,", "Hello support,", "",
)  # fmt: skip

SIGN_OFFS: Final = (
    "Thanks, {name}", "Best regards, {name}", "Kind regards\n{name}", "{name}", "Cheers, {name}",
    "Thank you in advance. {name}", "Yours sincerely, {name}", "",
)  # fmt: skip

NAMES: Final = (
    "Ana", "Bram", "Chloe", "Deniz", "Elif", "Femi", "Greta", "Hassan", "Ines", "Jonas", "Kavya",
    "Luca", "Mei", "Noor", "Olga", "Pablo", "Quinn", "Rosa", "Samir", "Tove", "Uma", "Viktor",
    "Wanda", "Yara", "Zoe",
)  # fmt: skip

# {item} is the product, or "something" and the like where it is not named.
STORIES: Final = {
    "refund": (
        "I would like my money back for {item}, it is not what I expected.",
        "Please refund {item}. I hardly used it and it is not for me.",
        "I have changed my mind about {item} and want to return it for a refund.",
        "Can you pay me back for {item}? My partner had already bought one.",
        "I am sending back {item} and expect the money on my account again.",
        "{item} does not fit our needs at all, so I want to be reimbursed.",
        "How do I get back what I paid for {item}? I do not want to keep it.",
    ),
    "defect": (
        "{item} stopped working, it will not switch on any more.",
        "There is something wrong with {item}: it arrived with a crack all along one side.",
        "I opened the box today and a part of {item} is missing.",
        "{item} worked twice and now it makes a terrible noise and does nothing.",
        "One of the buttons came off {item} the first time I touched it.",
        "I am afraid {item} is broken, nothing happens whatever I try.",
        "{item} keeps failing on me. A working one is all I want.",
    ),
    "delivery": (
        "{item} still has not arrived.",
        "Where is {item}? The tracking page has said 'on its way' for ages.",
        "My parcel with {item} seems to be lost.",
        "I have been waiting for {item} and nobody can tell me where it is.",
        "The courier says they delivered {item}, but there is nothing here.",
        "Could you find out when {item} will finally get here?",
        "Nothing came. I ordered {item} and the delivery date has long passed.",
    ),
}

QUESTIONS: Final = (
    "Does {item} run on 110 volts as well?",
    "I am thinking of buying {item}. How long is the warranty?",
    "Can parts of {item} go into the dishwasher?",
    "How do I clean {item} without scratching it?",
    "Is there a version of {item} in another colour?",
    "Before I buy {item}: how many days would I have to return it?",
    "Where can I download the manual for {item}?",
    "What is the difference between {item} and last year's model?",
)

LEGAL: Final = (
    "If this is not settled, you will hear from my lawyer.",
    "I have already talked to a solicitor and am ready to go to court.",
    "My attorney will be in touch about this.",
    "Otherwise I shall take you to the small claims court.",
    "I am going to sue you over this.",
    "Consider this formal notice before legal proceedings.",
)

SAFETY: Final = (
    "Worse, there was smoke coming out of it and the plug had melted.",
    "It gave my daughter an electric shock.",
    "I burned my hand on it, and the blister is still there.",
    "It caught fire on the table, luckily I was in the room.",
    "A piece of it broke off and cut my son's face.",
    "It sparks whenever it is plugged in and there is a smell of burning.",
)

DEADLINES: Final = (
    "It is a birthday present for this Saturday, so it has to be sorted out before.",
    "We leave on our trip in three days and need it with us.",
    "I need this settled by Friday at the latest.",
    "I am moving abroad the day after tomorrow, later will not work.",
    "The wedding is this weekend and it is our gift.",
)

NO_HURRY: Final = (
    "There is no hurry, whenever you get round to it.",
    "Take your time, I am away for a month anyway.",
    "It is not pressing at all.",
    "No rush with this one.",
)

ANGER: Final = (
    "THIS IS A DISGRACE.",
    "I am so angry I could scream!!!",
    "Honestly, what kind of company are you?",
    "This is the worst service I have ever had!",
    "I can't believe I have to write this email!!",
)

DETAILS: Final = {
    "order": (
        "My order number is {order}.",
        "Order: {order}.",
        "It is order {order}.",
        "You will find it under {order}.",
        "(order no. {order})",
    ),
    "amount": (
        "I paid {amount} for it.",
        "It cost me {amount}.",
        "The price was {amount}.",
        "{amount} is what it cost.",
    ),
    "date": (
        "I bought it {date}.",
        "The order was placed {date}.",
        "I ordered {date}.",
        "The purchase was {date}.",
    ),
}

# Numbers and things that are none of the details, whatever they look like.
DISTRACTORS: Final = (
    "The invoice says INV-{digits}.",
    "The tracking number is TR{digits}0{digits}.",
    "You can call me on 555-0{digits}.",
    "My customer number is {digits}.",
    "There is also a number {digits}-K on the paper I have.",
    "My earlier order {other_order} was perfectly fine, by the way.",
    "Shipping was another {other_amount} on top.",
    "I still have a voucher over {other_amount}, that is not what this is about.",
)

# Wishes beside the main one: they change nothing.
ASIDES: Final = (
    "By the way, do you ship to Norway?",
    "Also, will there be a sale at the end of the year?",
    "My sister is very happy with hers, she told me to say so.",
    "And please take me off the newsletter some time.",
    "I filled in your survey as well.",
    "I have been a customer for years.",
    "Your chat was closed, so I am writing here.",
)

SPAM: Final = (
    "We can put your shop on page one of every search engine for {other_amount} a month.",
    "CONGRATULATIONS! You have won a prize of {other_amount}. Confirm under claim-{digits}.",
    "Dear owner, I offer 10k real followers for {other_amount}, no password needed.",
    "Business loan up to {digits}00 dollars, no questions asked, reply with your bank details.",
    "Your mailbox is full. Verify your password at mail-{digits}.example to keep your messages.",
    "I saw your site and can redesign it. Packages start at {other_amount}, offer {digits}.",
    "Earn {other_amount} a day from home with our trading robot, code {digits}.",
    "We are a factory for packaging, best prices, ask for catalogue {digits}.",
)

UNNAMED: Final = ("the thing I ordered", "what I bought from you", "my purchase", "the item")

UNNAMED_YET: Final = ("one of your products", "your newest product", "the one on your front page")
"""The same in a question, where nothing has been bought."""

MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
"""Month names in English, whatever the locale."""
