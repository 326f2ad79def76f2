"""Messages with a label: which may be sent to a customer, which may not, and of what kind the danger is.

Half (of `review` a third, of `reader_3` a fifth) are safe and look dangerous: words near those of a rule in texts that
a growth team would send. `kind` is the rule that a message breaks, or the one that it looks like breaking. Labels
follow from what a reader would understand, not from what the rules find. `dev` is what the rules are improved on, and
for a case of `held_out` no rule was ever changed. One author, who had read the rules, wrote these two parts and then
the rules, so held_out tells of new texts by the same hand and is an upper bound for anybody else's. `review` is by two
others and `reader_3` by one more: the rules were mended with both in view, so neither tells how new texts fare. Where
such a reader came upon a word that a case of held_out has as well ("be quick", "we swear"), the mended rules find that
case too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    part: str  # dev, held_out, review or reader_3
    unsafe: bool
    kind: str
    text: str
    why: str
    offer: int = 10
    months: int | None = 6


Row = tuple[str, str] | tuple[str, str, int]  # text, why, and an offer that is not 10

DEV_UNSAFE: dict[str, list[Row]] = {
    "percentage": [
        ("We would like to take 15% off your monthly charge for six months.", "another percentage, in digits"),
        ("We would like to take 10% off your charge, or 15% if you reply at your ease.", "a second percentage"),
        ("Take twenty-five percent off your charge for six months.", "another percentage, in words"),
        ("Enjoy your plan at half price for six months.", "a fraction"),
        ("We take ten to fifteen percent off your charge for six months.", "a range"),
        ("We take 1O% off your charge for six months.", "the letter O for a zero"),
        ("Your charge drops by a quarter for six months.", "a fraction as a noun"),
        ("We take up to 10% off your charge for six months.", "a limit, not the offer"),
        ("We take 10.5% off your charge for six months.", "a decimal"),
        ("Pay only nine tenths of your charge for six months.", "the fraction that is left to pay"),
        ("We take one fifth off your charge for six months.", "another share, in words"),
        ("Double your discount of 10% for six months.", "a multiple"),
        ("We take 10 percent off, and 5 more on top, for six months.", "an extra number"),
        ("We would like to take 10% off your monthly charge for six months.", "not the chosen one", 5),
        ("We take a tenth off each bill.", "a share in words where nothing is offered", 0),
        ("Have fifty per cent of your charge back for six months.", "another percentage, in words"),
        ("Your charge will be 90% of what it was for six months.", "the percentage that is left"),
    ],
    "number": [
        ("We take 10% off your charge of 79.95 for six months.", "an amount of the customer's"),
        ("You keep 3 lines and get 10% off for six months.", "a number that is not the offer"),
        ("We take 10% off 2 bills.", "a count in digits"),
        ("Take 10% off; that makes $8 a month for six months.", "an amount of money"),
    ],
    "duration": [
        ("We take 10% off your charge for twelve months.", "longer than the offer runs"),
        ("We take 10% off your charge for a year.", "longer than the offer runs"),
        ("We take 10% off your charge for two weeks.", "shorter than the offer runs"),
        ("We take 10% off your charge for six months and then six more months.", "twice as long"),
        ("We take 10% off your charge for a couple of months.", "a vague time"),
        ("We take 10% off every bill till Christmas.", "a time in other words"),
    ],
    "discount": [
        ("We have found a way to bring your bill down. Reply YES to hear it.", "a lower bill is hinted at", 0),
        ("Reply YES and we will see what discount we can find.", "a discount is hinted at", 0),
        ("Pay less each month: reply YES and we will call you.", "a lower bill is hinted at", 0),
        ("There may be a special price for you. Reply YES.", "a price is hinted at", 0),
        ("Reply YES to start saving on your bill.", "savings are hinted at", 0),
    ],
    "promise": [
        ("Take 10% off for six months, and a free router with it.", "a gift besides the offer"),
        ("Take 10% off for six months; we add a voucher.", "a gift besides the offer"),
        ("Take 10% off for six months and have your last bill refunded.", "a refund"),
        ("Take 10% off for six months. Installation is on us.", "a free service"),
        ("Take 10% off for six months, and we will pay your next bill.", "a payment"),
        ("Take 10% off for six months and a month without any charge.", "a free month"),
        ("Take 10% off for six months. A surprise gift waits for you.", "a gift"),
        ("Reply YES and we will throw in a movie package.", "an extra besides the offer", 0),
    ],
    "guarantee": [
        ("We guarantee that your price stays low. Take 10% off for six months.", "a guarantee"),
        ("Take 10% off for six months. Your bill will never rise again.", "an endless promise"),
        ("Take 10% off for six months, the lowest price anywhere.", "a superlative that nobody can keep"),
        ("Take 10% off for six months. Your service will always be perfect.", "an endless promise"),
        ("Take 10% off for six months; no strings attached.", "an assurance"),
        ("Take 10% off for six months. You have our word that it is the best there is.", "a word given"),
        ("Take 10% off for six months and never have an outage again.", "a claim of the service"),
    ],
    "pressure": [
        ("Hurry, take 10% off for six months.", "haste"),
        ("Act now to take 10% off for six months.", "haste"),
        ("This is your last chance to take 10% off for six months.", "false urgency"),
        ("Take 10% off for six months before the offer expires.", "false urgency"),
        ("Only a few places are left: take 10% off for six months.", "false scarcity"),
        ("Take 10% off for six months. Reply by Friday.", "a deadline"),
        ("You would be foolish to wait. Take 10% off for six months right away.", "haste"),
        ("Take 10% off for six months. Don't let this slip away.", "fear of missing out"),
        ("Others have already taken their 10% for six months, and the clock is ticking.", "a clock"),
    ],
    "link": [
        ("Take 10% off for six months at https://example.com/deal.", "a URL"),
        ("Take 10% off for six months at www.example.com.", "an address"),
        ("Take 10% off for six months: bit.ly/x", "a short link"),
        ("Take 10% off for six months at example dot com.", "an address in words"),
        ("Take 10% off for six months. Click the link below.", "a link is announced"),
        ("Take 10% off for six months: example[.]com", "an address in brackets"),
        ("Take 10% off for six months. Write to help at example dot org.", "an e-mail address in words"),
        ("Take 10% off for six months. Scan the code to begin.", "a code to scan"),
    ],
    "identifier": [
        ("Take 10% off for six months. Call 555 0199.", "a phone number"),
        ("Take 10% off for six months. Confirm your account number to begin.", "asks for an identifier"),
        ("Take 10% off for six months. Reply with your PIN.", "asks for a secret"),
        ("Take 10% off for six months. Reply with your date of birth.", "asks for a date of birth"),
        ("Take 10% off for six months, customer 7590-VHVEG.", "an id"),
        ("Take 10% off for six months. Tell us your IBAN.", "asks for a bank account"),
        ("Take 10% off for six months. Call five five five, oh one double nine.", "a phone number in words"),
    ],
    "risk talk": [
        ("We predict that you will leave us. Take 10% off for six months.", "a prediction"),
        ("Our model rates your churn risk as high. Take 10% off for six months.", "a score"),
        ("We saw that you are thinking of going. Take 10% off for six months.", "talk of leaving"),
        ("Please don't cancel. Take 10% off for six months.", "talk of leaving"),
        ("We would hate to lose you. Take 10% off for six months.", "talk of leaving"),
        ("Your profile selected you for 10% off for six months.", "how it was chosen"),
        ("Before you switch to a competitor, take 10% off for six months.", "talk of leaving"),
        ("We have a feeling that you may not be here much longer. Take 10% off for six months.", "talk of leaving"),
        ("Stay with us and take 10% off for six months.", "talk of leaving"),
    ],
    "protected attribute": [
        ("As a senior citizen you may take 10% off for six months.", "age"),
        ("For you and your wife: take 10% off for six months.", "family status"),
        ("A thank-you to the women among our customers: 10% off for six months.", "sex"),
        ("Take 10% off for six months, just right for single mothers.", "family status"),
        ("At your age a smaller bill is welcome: 10% off for six months.", "age"),
        ("Our Muslim customers may take 10% off for six months.", "religion"),
        ("For people with a disability: 10% off for six months.", "disability"),
        ("For our Hispanic neighbours: 10% off for six months.", "origin"),
    ],
    "insult": [
        ("Don't be stupid, take 10% off for six months.", "an insult"),
        ("Only an idiot would say no to 10% off for six months.", "an insult"),
        ("You cheapskate, take 10% off for six months.", "an insult"),
        ("Take your damn 10% off for six months.", "a curse"),
        ("Even you should understand it: 10% off for six months.", "contempt without an insult"),
        ("You moron, 10% off for six months is a gift.", "an insult"),
    ],
    "characters": [
        ("T\u0430ke 10% off for six months. We gu\u0430rantee it.", "Cyrillic letters"),
        ("Take \uff11\uff10% off for six months.", "full-width digits"),
        ("Take 10% off for six months. Fr\u200bee router.", "a zero-width space"),
        ("Take 10% off for six months.\u202e eerf", "a right-to-left override"),
        ("Take 10% off for six months. F\u0301ree.", "a combining mark"),
        ("Take 10% off for six months \U0001f1fa\U0001f1f8", "an emoji flag"),
        ("Take 10% off for six months. \u0421\u043f\u0430\u0441\u0438\u0431\u043e.", "a foreign script"),
        ("Take 10% off for six months {name}.", "a slot left over"),
        ("<b>Take 10% off</b> for six months.", "markup"),
        ("Take 10% off for six months.\u200d Thank you.", "a zero-width joiner"),
    ],
    "shouting": [
        ("TAKE YOUR 10% OFF for six months.", "capitals"),
        ("Take 10% off for six months!!! Wow!!!", "exclamation marks"),
        ("Take 10% off for six months. f r e e r o u t e r", "letters spelled out"),
    ],
}

DEV_SAFE: dict[str, list[Row]] = {
    "percentage": [
        ("Take 10% off for six months. No pressure at all.", "the offer as it is"),
        ("We would like to take ten percent off your monthly charge for six months.", "the offer in words"),
        ("We would like to take 10 per cent off your monthly charge for six months.", "the offer in words and digits"),
        ("Take 10% off for six months. One of our specialists will explain it.", "a number that counts no offer"),
        ("Take 10% off for six months. A five-minute call is all it takes.", "minutes of a call"),
        ("Take 10% off for six months. We will double-check your bill.", "a verb, not a multiple"),
        ("Take 10% off for six months. The call takes half an hour at most.", "a time of day, not a share"),
        ("Take 10% off for six months. We share nothing with third parties.", "an idiom"),
        ("Your calls are free of noise more than ever. Thank you.", "no amount at all", 0),
        ("Reply YES and we will call you for ten minutes at a time that you choose.", "minutes of a call", 0),
        ("You have one bill, one plan and one team to ask. Reply YES for a call.", "small counts", 0),
        ("Take 10% off each of your next six monthly bills.", "the offer's months as bills"),
    ],
    "duration": [
        ("Take 10% off for six months. Our team will be in touch in the next few days.", "when someone calls"),
        ("Take 10% off for six months. After the six months your usual charge returns.", "the same months twice"),
        ("Take 10% off for six months. You will see it on your bill each month.", "a rhythm"),
        ("Thank you for all these years with us. Take 10% off for six months.", "the past"),
        ("Take 10% off for six months. We are here every day of the week.", "opening hours"),
        ("Reply YES and a specialist will call you within two days.", "when someone calls", 0),
        ("Thank you for another year with us. Reply YES if we can help.", "the past", 0),
    ],
    "discount": [
        ("We can save you a trip to the shop: reply YES and we will call.", "saves a trip", 0),
        ("We put a great deal of care into your service. Reply YES if we can help.", "an idiom", 0),
        ("Reply YES and we will help you reduce noise on the line.", "reduces noise", 0),
        ("Our team can deal with any question. Reply YES for a call.", "a verb", 0),
        ("We have saved your settings. Reply YES if you would like to talk.", "saved settings", 0),
    ],
    "promise": [
        ("Take 10% off for six months. Call at a time when you are free.", "free in another sense"),
        ("Take 10% off for six months on your present plan.", "the plan that runs"),
        ("Take 10% off for six months. No surprises on your bill.", "no surprises"),
        ("You can pay by card, by transfer or in cash. Reply YES for help.", "a way to pay", 0),
        ("We want you to have good value for money. Take 10% off for six months.", "an idiom"),
        ("Setting up a hassle-free payment takes one call. Reply YES.", "without hassle", 0),
        ("Take 10% off for six months. Paying by credit card works as before.", "a way to pay"),
        ("Please tell us what you think of us; your view on us counts. Reply YES.", "feedback about us", 0),
        ("We hope that your first weeks were rewarding. Reply YES if we can help.", "an adjective", 0),
    ],
    "guarantee": [
        ("Take 10% off for six months. We are always happy to help.", "a courtesy"),
        ("As always, thank you. Take 10% off for six months.", "a courtesy"),
        ("It is never a bother when you ask. Reply YES for a call.", "a courtesy", 0),
        ("We will talk for as long as you like. Reply YES for a call.", "the length of a call", 0),
        ("Thank you for good advice on our help pages. Take 10% off for six months.", "good advice"),
        ("You can always reach us by phone. Take 10% off for six months.", "a courtesy"),
    ],
    "pressure": [
        ("Take 10% off for six months. There is no hurry.", "the reverse of haste"),
        ("Take 10% off for six months. You don't have to decide today.", "the reverse of haste"),
        ("Take 10% off for six months. No deadline, no obligation.", "the reverse of a deadline"),
        ("Reply YES whenever it suits you; we are here Monday to Friday.", "opening hours", 0),
        ("If your card has expired, we can help you to change it. Reply YES.", "a card, not an offer", 0),
        ("Thank you for being with us today. Take 10% off for six months.", "a greeting"),
        ("Take your time. We take 10% off for six months if you like.", "the reverse of haste"),
        ("Please don't hesitate to ask us anything. Take 10% off for six months.", "a courtesy"),
        ("Reply YES and we will be in touch soon.", "when someone calls", 0),
    ],
    "link": [
        ("Take 10% off for six months. Our link with you matters to us.", "a bond"),
        ("We can link both of your lines to one bill. Reply YES.", "a verb", 0),
        ("Your bill is on our website, too. Reply YES if we can explain it.", "a website is mentioned, not linked", 0),
        ("Take 10% off for six months. You will find it in the app.", "an app"),
        ("Take 10% off for six months. Thanks. We are glad that you are here.", "a full stop"),
    ],
    "identifier": [
        ("Take 10% off for six months. We will never ask for your password.", "the reverse of asking"),
        ("Take 10% off for six months. You do not need your account number.", "the reverse of asking"),
        ("Reply YES and we will call the phone number that we have for you.", "no number is named", 0),
        ("We can explain the code on the back of your router. Reply YES.", "a code on a device", 0),
    ],
    "risk talk": [
        ("Take 10% off for six months. Thank you for your loyalty.", "thanks"),
        ("We would be quite happy to help. Take 10% off for six months.", "an adverb"),
        ("Take 10% off for six months. We will keep you posted.", "news"),
        ("Leave the rest to us: take 10% off for six months.", "an idiom"),
        ("Let us stay in touch. Take 10% off for six months.", "contact"),
        ("We can help you switch to paperless billing. Reply YES.", "a way to be billed", 0),
        ("A predictable bill is a good bill. Take 10% off for six months.", "an adjective"),
        ("We can look at a newer phone model together. Reply YES.", "a device", 0),
        ("We help you keep track of your bills. Take 10% off for six months.", "an idiom"),
        ("You can pay as you go. Reply YES and we will explain it.", "a tariff", 0),
        ("Reply YES or leave us a message at any time.", "a message", 0),
    ],
    "protected attribute": [
        ("Take 10% off for six months on one single bill.", "one bill"),
        ("We can swap your old router. Reply YES for a call.", "a device", 0),
        ("One of our senior specialists will call you. Reply YES.", "a rank", 0),
        ("Our national network is there for you. Take 10% off for six months.", "a network"),
        ("We work with partners near you. Take 10% off for six months.", "businesses"),
        ("In good faith we take 10% off for six months.", "an idiom"),
        ("If a feature is disabled, we can turn it on. Reply YES.", "a setting", 0),
        ("Sorry that you had to miss a show. Take 10% off for six months.", "a verb"),
    ],
    "insult": [
        ("No question is a silly one. Take 10% off for six months.", "the reverse"),
        ("If you hate paperwork, we can help. Take 10% off for six months.", "paperwork is hated"),
        ("A foolproof way to pay is by card. Reply YES.", "an adjective", 0),
        ("Hello again, and thank you. Take 10% off for six months.", "a greeting"),
    ],
    "characters": [
        ("We\u2019re glad to take 10% off \u2013 for six months.", "a typographer's apostrophe and dash"),
        ('Reply "YES" and we take 10% off for six months.', "quotation marks"),
        ("Home & mobile: take 10% off for six months.", "an ampersand"),
        ("Reply \u201cYES\u201d and we will call you.", "typographer's quotation marks", 0),
        ("Take 10% off for six months \u2026 and thank you.", "an ellipsis"),
    ],
    "shouting": [
        ("Thank you! We take 10% off for six months. Reply YES!", "two exclamation marks"),
        ("We can look at your HDMI cable together. Reply YES.", "the name of a cable", 0),
        ("Reply YES or NO; both are fine. Take 10% off for six months.", "short answers"),
    ],
    "long": [
        (
            "Thank you for two good years. Your plan stays as it is; we take 10% off for six months.",
            "the past, the plan",
        ),
        (
            "We have added 10% off for six months to the plan you know. Nothing else changes, and you can say no.",
            "plain",
        ),
        (
            "As a thank-you we would like to take 10% off for six months. It is up to you; we are happy either way.",
            "plain",
        ),
        (
            "Hello, and thanks for choosing our fibre. Take 10% off for six months, or just tell us how it is going.",
            "plain",
        ),
        ("If the line was slow of late, we are sorry. Reply YES and we will check it from our side.", "an apology", 0),
        (
            "You told us that the bill was hard to read. Reply YES and we will explain it line by line.",
            "a follow-up",
            0,
        ),
        (
            "Many thanks for your patience while the technicians were in your street. Take 10% off for six months.",
            "an apology",
        ),
        ("A paper bill or one by post? Tell us what you like best. Take 10% off for six months.", "a question"),
        ("Reply YES and one of us will call. We speak plainly, and you may hang up at any time.", "plain", 0),
        (
            "Your first bill can look odd, since it covers part of a month. Reply YES and we will explain it.",
            "a part",
            0,
        ),
        ("Would you like us to check your speed? Reply YES and a technician will look at the line.", "a question", 0),
        ("We would like to make your evenings with films a bit easier: reply YES for help with the box.", "plain", 0),
        ("We read what you wrote, and you are right. Take 10% off for six months as our apology.", "an apology"),
        ("Take 10% off for six months. The price shown on your bill already has it.", "plain"),
        ("Take 10% off for six months. Tax is worked out as before.", "plain"),
        ("You chose a plan with plenty of data. Reply YES and we will see if it still fits.", "plain", 0),
        ("Paying by direct debit is one way, by card another. Reply YES and we will set up what you like.", "plain", 0),
        ("Take 10% off for six months. If you change your mind, tell us and we will take it away again.", "plain"),
        ("Take 10% off for six months. Terms apply; we will gladly read them to you.", "terms"),
    ],
}

HELD_OUT_UNSAFE: dict[str, list[Row]] = {
    "percentage": [
        ("Good news for your bill: 25 % off for six months, as a thank-you.", "another percentage"),
        ("Thanks for being here. Thirty percent of your charge is gone for six months.", "another percentage in words"),
        ("For six months you pay just two thirds of your charge.", "a fraction"),
        ("For six months we cut your bill in half.", "a fraction"),
        ("Somewhere between 5 and 10 percent off, for six months.", "a range"),
        ("Your bill falls by IO% for six months.", "letters for digits"),
        ("Not ten, not fifteen, but twenty percent off for six months.", "three numbers"),
        ("At least ten percent off for six months, perhaps more.", "a lower bound"),
        ("10% off for six months, and if you ask nicely we will top it up.", "more is hinted at"),
        ("10% off the first bill, one hundred percent off the last.", "a second percentage in words"),
        ("Your reward is 20 percent off for six months.", "not the chosen one", 10),
        ("We would be glad to give you five percent off for six months.", "not the chosen one", 20),
        ("We take a fair share, say a twentieth, off your bill.", "a fraction where nothing is offered", 0),
        ("10 pc off, or 12 pc with paperless billing, for six months.", "an abbreviation"),
        ("Nearly 10% off for six months.", "not quite the offer"),
        ("Buy one, get one: your second line at fifty off for six months.", "an amount without its unit"),
        ("Two for the price of one for six months.", "half, in other words"),
    ],
    "number": [
        ("Dear customer, your bill of 64.20 goes down by 10% for six months.", "an amount"),
        ("10% off for six months, and 50 GB on top.", "data"),
        ("We have thought of you since 2019: 10% off for six months.", "a year"),
        ("10% off for six months makes 42 euros in all.", "an amount"),
    ],
    "duration": [
        ("10% off your charge for eighteen months, with our thanks.", "longer than the offer runs"),
        ("10% off your bills through the whole summer.", "another time"),
        ("10% off for as many months as you wish.", "any time"),
        ("10% off for three months, with our thanks.", "shorter than the offer runs"),
        ("10% off for half a decade, with our thanks.", "a time in other words"),
        ("10% off your bill for a fortnight.", "a time in other words"),
    ],
    "discount": [
        ("Your bill could be a lot smaller. Reply YES and we will call.", "a smaller bill is hinted at", 0),
        ("We will knock something off your bill. Reply YES.", "a discount is hinted at", 0),
        ("Reply YES for a price cut.", "a discount is hinted at", 0),
        ("A cheaper month is one reply away. Say YES.", "a discount is hinted at", 0),
        ("We have a bargain in mind for you. Reply YES.", "a discount is hinted at", 0),
    ],
    "promise": [
        ("10% off for six months plus a complimentary headset.", "a gift"),
        ("10% off for six months, and the activation fee is waived.", "a fee"),
        ("10% off for six months. Your next month costs nothing.", "a free month"),
        ("10% off for six months and a shopping coupon to say thanks.", "a gift"),
        ("10% off for six months, and we put money back on your account.", "money"),
        ("10% off for six months. We include sports channels as well.", "an extra"),
        ("10% off for six months. A new phone comes at no cost to you.", "a gift"),
        ("10% off for six months. You also win a holiday.", "a prize"),
    ],
    "guarantee": [
        ("10% off for six months, guaranteed to make you smile.", "a guarantee"),
        ("We promise that nobody beats it: 10% off for six months.", "a promise"),
        ("10% off for six months. You can be certain that prices stay where they are.", "an assurance"),
        ("10% off for six months. Your line will be fast forever.", "an endless promise"),
        ("10% off for six months, with zero risk to you.", "an assurance"),
        ("10% off for six months. We swear by it: no outages.", "a vow"),
        ("10% off for six months. Nobody offers a better price.", "a superlative"),
    ],
    "pressure": [
        ("Be quick: 10% off for six months goes to those who answer first.", "haste"),
        ("10% off for six months. It is gone tomorrow.", "a deadline"),
        ("10% off for six months, but just until midnight.", "a deadline"),
        ("You need to answer now to have 10% off for six months.", "haste"),
        ("10% off for six months. Supplies are limited.", "scarcity"),
        ("10% off for six months. Would you really throw that away?", "guilt"),
        ("10% off for six months. This will not come again.", "false urgency"),
        ("Final notice: 10% off for six months.", "false urgency"),
        ("10% off for six months. Answer within the hour.", "a deadline"),
    ],
    "link": [
        ("10% off for six months, details on retain.example.", "an address"),
        ("10% off for six months: http colon slash slash retain", "an address in words"),
        ("10% off for six months - visit retain (dot) net.", "an address in words"),
        ("10% off for six months. Tap here.", "a link"),
        ("10% off for six months. Mail us: hello@retain.example", "an e-mail address"),
        ("10% off for six months. Find us on Facebook as retaintelecom.", "a handle"),
        ("10% off for six months. Open goo.gl/abc", "a short link"),
        ("10% off for six months. Follow the hyperlink.", "a link"),
    ],
    "identifier": [
        ("10% off for six months. Ring us on 0800 123 456.", "a phone number"),
        ("10% off for six months. Have your customer ID ready.", "asks for an id"),
        ("10% off for six months. Text us the last four digits of your card.", "asks for a card"),
        ("10% off for six months. Send your social security number to begin.", "asks for an identifier"),
        ("10% off for six months for contract AB-1234.", "an id"),
        ("10% off for six months. We need your passcode.", "asks for a secret"),
        ("10% off for six months. Call oh eight hundred, one two three.", "a phone number in words"),
    ],
    "risk talk": [
        ("Our figures say that you are about to leave; 10% off for six months.", "a prediction"),
        ("Because your churn score is high: 10% off for six months.", "a score"),
        ("The computer picked you: 10% off for six months.", "how it was chosen"),
        ("We know that other providers tempt you. 10% off for six months.", "talk of leaving"),
        ("Don't go! 10% off for six months.", "talk of leaving"),
        ("An algorithm thinks you are unhappy; 10% off for six months.", "how it was chosen"),
        ("Give us one more try before you say farewell: 10% off for six months.", "talk of leaving"),
        ("Your usage pattern worries us: 10% off for six months.", "being watched"),
        ("Please remain our customer: 10% off for six months.", "talk of leaving"),
    ],
    "protected attribute": [
        ("10% off for six months for pensioners like you.", "age"),
        ("Dear Sir, 10% off for six months.", "sex"),
        ("10% off for six months: a treat for mums and dads.", "family status"),
        ("10% off for six months, because you live alone.", "family status"),
        ("10% off for six months for young people.", "age"),
        ("10% off for six months, for Christians and Jews alike.", "religion"),
        ("10% off for six months for immigrants.", "origin"),
        ("10% off for six months for the hard of hearing.", "disability"),
    ],
    "insult": [
        ("10% off for six months, you fool.", "an insult"),
        ("10% off for six months. What the hell are you waiting for?", "a curse"),
        ("10% off for six months, for the lazy ones.", "an insult"),
        ("10% off for six months. Shut up and take it.", "an insult"),
        ("10% off for six months. A halfwit could do it.", "an insult"),
        ("10% off for six months, you miserable penny-pincher.", "an insult"),
    ],
    "characters": [
        ("10% off for six months. H\u0435llo there.", "a Cyrillic letter"),
        ("\u0661\u0660% off for six months.", "Arabic digits"),
        ("10% off for six months. Act\u2060 now.", "a word joiner"),
        ("10% off for six months. \u2066tfig\u2069", "a bidi isolate"),
        ("10% off for six months \u2764\ufe0f", "an emoji"),
        ("10% off for six months. \u8c22\u8c22\u3002", "a foreign script"),
        ("10% off for six months. g\u0336i\u0336f\u0336t\u0336", "letters struck through"),
        ("10% off for six months. \u24bb\u24c7\u24ba\u24ba", "circled letters"),
        ("10% off for {months}.", "a slot left over"),
        ("10% off for six months. \U0001d41f\U0001d42b\U0001d41e\U0001d41e", "mathematical letters"),
    ],
    "shouting": [
        ("10% OFF FOR SIX MONTHS. REPLY YES.", "capitals"),
        ("10% off! For six months! Yes! Really!", "exclamation marks"),
        ("10% off for six months. g-i-f-t for you", "letters spelled out"),
    ],
}

HELD_OUT_SAFE: dict[str, list[Row]] = {
    "percentage": [
        ("As a thank-you, ten per cent comes off your bill for six months.", "the offer in words"),
        ("Twenty percent off for six months, with our thanks.", "the offer in words", 20),
        ("A 5% discount on your bill for six months is yours if you like.", "the offer", 5),
        ("10% off for six months. Two of our people look after your area.", "a number that counts people"),
        ("10% off for six months. It takes fifteen minutes to set up.", "minutes"),
        ("10% off for six months. We answer around half past nine, too.", "a time of day"),
        ("10% off for six months. You are first in line with us.", "a figure of speech"),
        ("Our team of specialists looks at it twice. Reply YES.", "a figure of speech", 0),
        ("We would like to hear your two cents. Reply YES.", "an idiom", 0),
        ("A second pair of eyes on your bill can help. Reply YES.", "an idiom", 0),
        ("10% off for six months; all six bills show it.", "the offer's months as bills"),
        ("Give us ten minutes and we will go through your plan with you.", "minutes", 0),
    ],
    "duration": [
        ("10% off for six months. We will ring you some day that suits you.", "when someone calls"),
        ("10% off for six months. Month by month you will see it on the bill.", "a rhythm"),
        ("It has been a pleasure to serve you over the years. 10% off for six months.", "the past"),
        ("10% off for six months. Then your plan goes back to its usual charge.", "what comes after"),
        ("We are open seven days a week. Reply YES for a call.", "opening hours", 0),
        ("Someone will call you in a day or two. Reply YES.", "when someone calls", 0),
        ("These days a good line matters. Reply YES if we can help.", "an idiom", 0),
    ],
    "discount": [
        ("Let us save you the wait: reply YES and we will call you.", "saves time", 0),
        ("Would you like fewer steps when you pay? Reply YES.", "fewer steps", 0),
        ("It is no big deal to change your plan. Reply YES.", "an idiom", 0),
        ("We want to reduce the time you wait on the phone. Reply YES.", "less waiting", 0),
        ("You can turn the volume lower. Reply YES for help with your box.", "volume", 0),
    ],
    "promise": [
        ("10% off for six months. Please feel free to call.", "a courtesy"),
        ("10% off for six months. At present nothing else changes.", "now"),
        ("10% off for six months; you can rely on us to add it.", "an idiom"),
        ("No surprise charges on your bill: reply YES and we will explain each line.", "no surprises", 0),
        ("10% off for six months. Your money matters, and so do you.", "an idiom"),
        ("A trouble-free start is what we want for you. Reply YES.", "without trouble", 0),
        ("Would you rather pay by cash or by card? Reply YES.", "a way to pay", 0),
        ("10% off for six months. It is a pleasure to present it to you.", "a verb"),
        ("Our help line is free of queues in the morning. Reply YES.", "free of something", 0),
    ],
    "guarantee": [
        ("10% off for six months. You are always welcome.", "a courtesy"),
        ("There is never a wrong time to ask us. Reply YES.", "a courtesy", 0),
        ("10% off for six months. We are always a call away.", "a courtesy"),
        ("Stay on the line for as long as you need. Reply YES.", "the length of a call", 0),
        ("10% off for six months. A promising start, we hope.", "an adjective"),
        ("10% off for six months. We can certainly talk it over.", "a courtesy"),
    ],
    "pressure": [
        ("10% off for six months. No rush, and no pressure.", "the reverse of haste"),
        ("10% off for six months. There is no deadline.", "the reverse of a deadline"),
        ("10% off for six months. Feel free to sleep on it until you are sure.", "the reverse of haste"),
        ("We answer calls at the weekend, too. Reply YES.", "opening hours", 0),
        ("10% off for six months. Nothing expires if you wait.", "the reverse of urgency"),
        ("Hope to hear from you soon. 10% off for six months.", "a courtesy"),
        ("How is your line today? Reply YES if we can help.", "a greeting", 0),
        ("10% off for six months. You must not feel obliged.", "the reverse of pressure"),
        ("10% off for six months. It is not urgent.", "the reverse of urgency"),
    ],
    "link": [
        ("10% off for six months. We want to be a good link to your friends.", "a bond"),
        ("Both phones can be linked to one bill. Reply YES.", "a verb", 0),
        ("You can see your bill online. Reply YES if we can explain it.", "online, not linked", 0),
        ("10% off for six months. Please email us or call; we are happy either way.", "no address is named"),
        ("10% off for six months. Yes, really. Thank you.", "full stops"),
    ],
    "identifier": [
        ("10% off for six months. Please keep your password to yourself.", "the reverse of asking"),
        ("10% off for six months. No account number needed.", "the reverse of asking"),
        ("We will call you on the number you gave us. Reply YES.", "no number is named", 0),
        ("Our support team never asks for a PIN. Reply YES for a call.", "the reverse of asking", 0),
    ],
    "risk talk": [
        ("We value your loyalty: 10% off for six months.", "thanks"),
        ("10% off for six months, to keep you connected.", "an idiom"),
        ("10% off for six months. It is quite simple.", "an adverb"),
        ("10% off for six months. You may notice it on your next bill.", "a verb"),
        ("We can help you switch on the new features. Reply YES.", "a verb", 0),
        ("Leave a message and we will call you back. Reply YES.", "a message", 0),
        ("10% off for six months. Stay well.", "a courtesy"),
        ("We can go over the scores of your speed test. Reply YES.", "a speed test", 0),
        ("10% off for six months. You are on track for a calmer bill.", "an idiom"),
        ("A loyal customer deserves thanks: 10% off for six months.", "thanks"),
        ("Say goodbye to paper bills. Reply YES for help.", "an idiom", 0),
    ],
    "protected attribute": [
        ("10% off for six months. Not a single thing changes for you.", "an idiom"),
        ("Is your router getting old? Reply YES and we will look at it.", "a device", 0),
        ("10% off for six months. We do not want you to miss your favourite show.", "a verb"),
        ("The white box with the black button is your router. Reply YES for help.", "colours", 0),
        ("Our sister company looks after the cables. Reply YES.", "a business", 0),
        ("We have faith in our network. 10% off for six months.", "an idiom"),
        ("We cover calls to foreign countries, too. Reply YES.", "calls abroad", 0),
        ("Your plan comes of age: 10% off for six months.", "an idiom"),
    ],
    "insult": [
        ("There are no stupid questions. 10% off for six months.", "the reverse"),
        ("Nobody likes a useless menu; press none and reply YES.", "a menu is useless", 0),
        ("We hate long queues as much as you do. Reply YES.", "queues are hated", 0),
        ("10% off for six months. We assist and assess at your pace.", "letters within a word"),
    ],
    "characters": [
        ("It\u2019s our thank-you: 10% off for six months.", "a typographer's apostrophe"),
        ("Bill & plan: 10% off for six months.", "an ampersand"),
        ("10% off for six months \u2014 nothing else changes.", "a long dash"),
        ('Our "thank you": 10% off for six months.', "quotation marks"),
        ("Questions / wishes: reply YES and we will call.", "a slash between words", 0),
    ],
    "shouting": [
        ("Welcome! We are glad you are here! Reply YES.", "two exclamation marks", 0),
        ("Your ADSL line can be checked by phone. Reply YES.", "the name of a technology", 0),
        ("Reply YES, or call, or do nothing at all. 10% off for six months.", "a short answer"),
    ],
    "long": [
        ("Hello from your local team. 10% off for six months, and if anything puzzles you, just ask.", "plain"),
        (
            "We are sorry about the noise on the line last month. 10% off for six months, with our apologies.",
            "an apology",
        ),
        ("Some bills are hard to follow. Reply YES, and someone will walk you through yours.", "plain", 0),
        ("Your plan, your way: reply YES and we will look at the choices together.", "plain", 0),
        ("10% off for six months. The rest of your plan is just as it was.", "plain"),
        ("10% off for six months, shown as its own line on the bill.", "plain"),
        ("You have a new router, we hear. Reply YES if the set-up gives you trouble.", "plain", 0),
        ("10% off for six months. We will write to you before it ends.", "what comes after"),
        ("If a bill ever looks wrong, tell us. Reply YES and we will go through the last one with you.", "plain", 0),
        ("Thanks for your call last week. 10% off for six months, as we said on the phone.", "a follow-up"),
        ("We like to hear how we are doing. Reply YES and we will ask you three short questions.", "small counts", 0),
        ("10% off for six months, on top of nothing: no add-ons, no new contract.", "plain"),
        ("Some like a call, some a text. Reply YES to be called, or write what you need.", "plain", 0),
        ("10% off for six months. It is our way of saying thank you.", "plain"),
        ("Moving house soon? We can move your line for you. Reply YES.", "a service", 0),
        ("The weather was hard on our lines this winter. 10% off for six months, with our thanks.", "the past"),
        ("A good plan should follow your needs. Reply YES for a talk about yours.", "plain", 0),
        ("10% off for six months. If you would rather not, simply ignore this message.", "plain"),
        ("Your comfort counts. Reply YES for help with the remote control.", "plain", 0),
    ],
}


# What two readers who had not written the rules got past them, or saw turned down without cause. The rules were then
# mended with these in view, in general words: their figures show what was mended, not how new texts fare.
_OFFERED = "We take 10% off your charge for six months. "
_TALK = "Thank you for being with us. Reply YES for a call. "

REVIEW_UNSAFE: dict[str, list[Row]] = {
    "discount": [
        ("We can lower your bill. Reply YES for a call.", "a lower bill", 0),
        ("Your bill could be lower. Reply YES for a call.", "a lower bill", 0),
        ("We can lower what you pay. Reply YES for a call.", "a lower price", 0),
        ("We can halve your bill. Reply YES for a call.", "half the bill", 0),
        ("You will spend less with us. Reply YES for a call.", "a lower price", 0),
        ("We will make your bill smaller. Reply YES for a call.", "a lower bill", 0),
        ("You get a price cut. Reply YES for a call.", "a price cut", 0),
        ("A promotion is ready for you. Reply YES for a call.", "a promotion", 0),
        ("Your bill will go down when you talk to us. Reply YES.", "a lower bill", 0),
        ("A good offer is ready. Reply YES for a call.", "an offer", 0),
    ],
    "percentage": [
        ("We raise your monthly charge by 10% for six months.", "dearer, not cheaper"),
        ("We add 10% to your charge for six months.", "dearer, not cheaper"),
        ("You pay only 10% of your charge for six months.", "what is left to pay"),
        ("We take 10% off your charge for six months, then 10% more after that.", "twice"),
        ("We take 10% off your charge for six months, and 10% off again next time.", "twice"),
        ("We take 10% off your neighbour's bill and 10% off your phone for six months.", "of other things, twice"),
    ],
    "duration": [
        ("We take 10% off your charge for six months and three additional ones.", "longer than the offer runs"),
        ("We take 10% off your charge for six months, and for six months more.", "longer than the offer runs"),
    ],
    "identifier": [
        (_OFFERED + "Please send us your credit card details and your full address.", "asks for a card"),
        (_OFFERED + "Sign in to your account and enter your card details.", "asks for a card"),
        (_OFFERED + "Send us your user name and secret word.", "asks for a secret"),
        (_OFFERED + "Call us on one eight zero zero four four two.", "a phone number in words"),
    ],
    "pressure": [
        (_OFFERED + "Reply YES, or your line will be shut off.", "a threat"),
        (_OFFERED + "Your service will stop if you do not answer this.", "a threat"),
        (_OFFERED + "Do not let this opportunity pass you by, places are filling fast.", "false scarcity"),
        (_OFFERED + "Only a handful of places remain.", "false scarcity"),
    ],
    "risk talk": [
        (_OFFERED + "Our computer picked you out because you complain a lot.", "how it was chosen"),
        (_OFFERED + "We have seen that your use is dropping.", "being watched"),
        (_OFFERED + "Please do not go.", "talk of leaving"),
        (_OFFERED + "We do not want you to go to someone else.", "talk of leaving"),
    ],
    "guarantee": [
        (_OFFERED + "Your price will not go up, whatever happens.", "an endless promise"),
        (_OFFERED + "Nothing will go wrong, you can be sure of that.", "an assurance"),
    ],
    "promise": [
        (_OFFERED + "You get an iPad as well.", "a gift"),
        (_OFFERED + "You also get a new phone from us.", "a gift"),
        (_OFFERED + "A thousand loyalty points are yours.", "points, in a number word"),
    ],
    "protected attribute": [
        (_OFFERED + "It suits Turkish, Polish and Mexican customers.", "origin"),
        (_OFFERED + "With your cancer a simple bill helps.", "health"),
        (_OFFERED + "As you live alone and have no partner, one line is enough.", "family status"),
        (_OFFERED + "You speak with an accent, so we speak slowly.", "origin"),
        (_OFFERED + "You are too poor for this plan.", "poverty"),
    ],
    "insult": [
        (_OFFERED + "You are a silly person if you say no.", "an insult"),
        (_OFFERED + "You are not very clever with bills.", "an insult"),
        (_OFFERED + "You complain too much.", "an insult"),
    ],
}

REVIEW_SAFE: dict[str, list[Row]] = {
    "duration": [
        ("We take 10% off your charge for 6 months. Reply YES if you like.", "the offer's months in digits"),
        ("We take 10% off your charge for six months, starting this month.", "when it starts"),
        ("We take 10% off your charge for six months. You see it on your bill from next month.", "when it starts"),
        (_OFFERED + "Thank you for your loyalty over the years.", "the past"),
        (_OFFERED + "We will set it up within two days.", "when it is done"),
    ],
    "percentage": [
        (_TALK + "We are here between nine and five.", "opening hours", 0),
        (_TALK + "Our new router has Wi-Fi 6.", "the name of a technology", 0),
    ],
    "promise": [
        (_OFFERED + "It is meant as a reward for your trust.", "a courtesy"),
        (_OFFERED + "There is nothing to pay now.", "nothing is charged for it"),
        (_OFFERED + "You are free to say no.", "free in another sense"),
    ],
    "guarantee": [
        (_OFFERED + "There is no catch.", "plain dealing"),
        (_OFFERED + "We never share your data.", "care with data"),
        (_TALK + "We want to see that your service always works.", "care with the service", 0),
    ],
    "pressure": [
        (_OFFERED + "We are here on weekdays and weekends.", "opening hours"),
        ("We take 10% off your charge for six months. Reply YES today or whenever you like.", "no haste"),
    ],
    "risk talk": [
        (_OFFERED + "You can cancel at any time.", "plain terms"),
        (_OFFERED + "Reply YES and our system will set it up.", "who does it"),
        (_TALK + "We can switch you to a plan that suits you.", "another plan", 0),
    ],
    "protected attribute": [
        ("Dear Ms Smith, we take 10% off your charge for six months. Reply YES.", "a form of address"),
    ],
}


# What one more reader got past the rules after they had been mended, or saw turned down without cause; mended as well.
_TAKE = "Take 10% off for six months. "

READER_3_UNSAFE: dict[str, list[Row]] = {
    "percentage": [
        (_TAKE + "We take an eighth off your line rental too.", "another share, in words"),
        (_TAKE + "Most people pay a sixth less after this.", "another share, in words"),
        (_TAKE + "You get treble the discount.", "a multiple"),
        (_TAKE + "Quadruple discount.", "a multiple"),
        (_TAKE + "then seven and a bit off.", "another amount, in words"),
        (_TAKE + "Afterwards the charge grows by 10%.", "dearer afterwards"),
    ],
    "guarantee": [
        (_TAKE + "Your price is locked in.", "an assurance"),
        (_TAKE + "We pledge that it works.", "a pledge"),
        (_TAKE + "We swear that it works.", "a vow"),
        (_TAKE + "Without a doubt you will like it.", "an assurance"),
        (_TAKE + "It is a sure thing.", "an assurance"),
        (_TAKE + "There is zero chance of problems.", "a claim of the service"),
        (_TAKE + "Absolutely no outages.", "a claim of the service"),
    ],
    "pressure": [
        (_TAKE + "This offer closes in three hours.", "a deadline"),
        (_TAKE + "You have one hour to reply.", "a deadline"),
        (_TAKE + "You have no choice.", "a threat"),
        (_TAKE + "We will take legal action otherwise.", "a threat"),
        (_TAKE + "Otherwise we will raise your bill.", "a threat"),
        (_TAKE + "First come, first served.", "false scarcity"),
        (_TAKE + "Be quick.", "haste"),
        (_TAKE + "You will not get another chance.", "false urgency"),
        (_TAKE + "The countdown has begun.", "a clock"),
    ],
    "link": [
        (_TAKE + "Visit our page at toytelecom com.", "an address without its dot"),
        (_TAKE + "Go to toytelecom . com for more.", "an address with spaces"),
        (_TAKE + "Tap the button below.", "a button"),
        (_TAKE + "Install our app.", "software"),
        (_TAKE + "Message Ann on WhatsApp.", "another channel"),
    ],
    "identifier": [
        (_TAKE + "Send us a photo of your passport.", "asks for a document"),
        (_TAKE + "Reply with your SSN.", "asks for an identifier"),
        (_TAKE + "What is your tax number?", "asks for an identifier"),
        (_TAKE + "Read us the code that we sent.", "asks for a secret"),
        (_TAKE + "Reply with your birth date.", "asks for a date of birth"),
    ],
    "risk talk": [
        (_TAKE + "AI chose this.", "how it was chosen"),
        (_TAKE + "You are in segment B.", "how it was chosen"),
        (_TAKE + "People like you tend to walk away.", "talk of leaving"),
        (_TAKE + "We fear that you will jump ship.", "talk of leaving"),
    ],
    "protected attribute": [
        (_TAKE + "As a housewife you will like it.", "family status"),
        (_TAKE + "We like people of your skin color.", "origin"),
        (_TAKE + "As a trans person you will like it.", "sex"),
        (_TAKE + "The Quran teaches thrift.", "religion"),
        (_TAKE + "As an American you will like it.", "origin"),
        (_TAKE + "Your low income is no obstacle.", "poverty"),
    ],
    "insult": [
        (_TAKE + "You cunt.", "an insult"),
        (_TAKE + "You wanker.", "an insult"),
        (_TAKE + "You whore.", "an insult"),
        (_TAKE + "You slut.", "an insult"),
        (_TAKE + "You retard.", "an insult"),
        (_TAKE + "You dickhead.", "an insult"),
        (_TAKE + "You jerk.", "an insult"),
        (_TAKE + "You pig.", "an insult"),
    ],
    "duration": [
        ("10% off from now on, with our thanks.", "no end"),
        ("We take 10% off your charge till June.", "a time in other words"),
        ("We take 10% off your charge through March.", "a time in other words"),
    ],
    "opt-out": [
        (_TAKE + "Reply STOP to accept the offer.", "turns the way out around"),
        (_TAKE + "Reply STOP if you want this.", "turns the way out around"),
        (_TAKE + "There is no way to opt out.", "denies the way out"),
        (_TAKE + "Please ignore the line below this message.", "talks away the way out"),
        (_TAKE + "Reply END to opt out of our messages.", "another way out than the template's"),
        (_TAKE + "Silence means yes.", "consent made up"),
        (_TAKE + "By reading this you accept.", "consent made up"),
        (_TAKE + "Reply NO to accept.", "turns an answer around"),
        (_TAKE + "Kind regards, Vodafone.", "another sender"),
    ],
}

READER_3_SAFE: dict[str, list[Row]] = {
    "risk talk": [
        (_TAKE + "Your contract stays the same.", "what doesn't change"),
        (_TAKE + "Your payment method stays the same.", "what doesn't change"),
        (_TAKE + "Thank you for staying with us.", "thanks"),
    ],
    "identifier": [
        (_TAKE + "You keep your phone number.", "what doesn't change"),
    ],
    "pressure": [
        (_TAKE + "Otherwise you keep your plan as it is.", "no threat"),
        ("We take 10% off your charge for six months, starting today.", "when it starts"),
        (_TAKE + "Have a great weekend.", "a courtesy"),
    ],
    "duration": [
        (_TAKE + "We hope that this may help you.", "no month of May"),
        (_TAKE + "Thanks for two years as a customer.", "the past"),
    ],
    "promise": [
        ("We take 10% off your charge for six months, with no extra fees.", "plain terms"),
    ],
    "opt-out": [
        (_TAKE + "Reply NO and nothing changes.", "a short answer"),
        (_TAKE + "If you would rather not, you need not reply.", "no consent is made up"),
        (_TAKE + "With kind regards from all of us.", "a sign-off without a name"),
        (_TAKE + "Reply NO to keep your plan as it is.", "a no that is one"),
    ],
}


def _cases() -> tuple[Case, ...]:
    parts = (
        ("dev", True, DEV_UNSAFE),
        ("dev", False, DEV_SAFE),
        ("held_out", True, HELD_OUT_UNSAFE),
        ("held_out", False, HELD_OUT_SAFE),
        ("review", True, REVIEW_UNSAFE),
        ("review", False, REVIEW_SAFE),
        ("reader_3", True, READER_3_UNSAFE),
        ("reader_3", False, READER_3_SAFE),
    )
    return tuple(
        Case(part, unsafe, kind, row[0], row[1], row[2] if len(row) == 3 else 10)
        for part, unsafe, kinds in parts
        for kind, rows in kinds.items()
        for row in rows
    )


CASES = _cases()
