"""The rules that every message keeps: what may be said to a customer, and in which characters.

A list of English words and phrases, no more (the docstring of unsafe() says which): it prefers turning down a good
text to sending a bad one, and it is the last look at a text, not what makes a language model's texts safe by itself.
"""

from __future__ import annotations

import re
from functools import lru_cache

from retain.numbers import ANY_ONE, ANY_TEEN, ANY_TEN, NUMBER_WORD, number_of

MIN_LENGTH, MAX_LENGTH = 40, 400

# What a message may not do, and what is said of one that does.
KINDS = {
    "characters": "holds a character that no message needs (look-alike, invisible, currency, markup, slot)",
    "percentage": "the only percentage must be the chosen one",
    "number": "holds a number that is not the offer",
    "duration": "names a duration that is not the offer's",
    "discount": "hints at a discount that isn't offered",
    "promise": "promises something besides the offer",
    "guarantee": "guarantees something",
    "pressure": "presses the customer",
    "link": "holds a link",
    "identifier": "names an identifier",
    "risk talk": "talks about risk or about how it was chosen",
    "protected attribute": "mentions a protected attribute",
    "insult": "insults the customer",
    "opt-out": "speaks of opting out, of consent or for another sender, which is the template's",
    "shouting": "shouts or spells out letters",
}

# Plain ASCII and the typographer's apostrophe, quotation marks, ellipsis and dashes: no look-alike letters, no
# zero-width characters, no currency, no handles or markup; an ampersand between words alone is no markup either.
_CHARACTERS = re.compile(r"(?:[A-Za-z0-9 .,;:!?'’\"“”…()%–—-]|(?<=[a-z] )&(?= [a-z]))*", re.IGNORECASE | re.ASCII)
_DIGITS = re.compile(r"\d[\d.,]*")
_PERCENT = r"(?:%|per ?-?cent\b|pct\b|percentage\b)"
# A percent sign belongs to a number that was read; before anything else ("IO%") it hides one.
_SIGN = re.compile(r"%|\bper ?-?cent\b|\bpct\b")
_READ = re.compile(rf"(?:\d|\b(?:{ANY_TEN}|{ANY_TEEN}|{ANY_ONE}|hundred))[ -]*$")
_PERCENT_NEXT = re.compile(rf" ?-?{_PERCENT}")
# "ten or more percent", "twenty off", "fifteen full per cent": up to two words in between still make it one.
_PERCENT_NEAR = re.compile(
    rf"(?:[ -]+and a (?:bit|half|little))?(?:[ -]+[a-z]+){{0,2}}?[ -]*(?:{_PERCENT}|\boff\b|\bdiscount|\bless\b|"
    rf"\bpoints?\b)"
)
_MINUTES_NEXT = re.compile(r"[ -]+minutes?\b")
_DURATION_NEXT = re.compile(r"[ -]+(?:full |whole )?(day|week|month|year)s?\b(?! (?:more|longer|extra|further|on top))")
# Every other way to speak of a time that an offer runs; "each month" and "per month" state none.
_DURATION = re.compile(
    r"(?<!each )(?<!per )\bmonths?\b|\b(?:days|weeks?|fortnight\w*|years?|yearly|annual\w*|quarterly|decades?|"
    r"centur\w+|dozens?|couple|several|a few|summer|winter|autumn|seasons?|"
    r"from (?:now|that day|this day) on|henceforth|ongoing|all future|till?|"
    r"(?:after|all|before|by|each|every|from|in|mid|next|this|through|to|until) (?:january|february|march|"
    r"april|june|july|august|september|october|november|december)|"
    r"(?:after|before|by|from|in|mid|next|through|to|until) may)\b"  # "this may help" is no month
)
_QUALIFIED = re.compile(
    r"\b(?:up to|as much as|at least|at most|more than|less than|over|under|above|another|extra|additional|further|"
    r"nearly|almost|about|around|roughly|minus|plus)\b[ a-z]{0,12}?[ (]*(?:\d|" + rf"(?:{ANY_TEEN}|{ANY_TEN})\b)"
)
_SPELLED = re.compile(r"(?:\b[a-z][ .,;:-]+){4,}")
_JOINED = re.compile(r"(?<=\w)[-–—.](?=\w)")
_APOSTROPHES = re.compile(r"['’]")


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b")


_FRACTION = _words(
    r"hal(?:f|v(?:es?|ed|ing))", r"thirds?", r"quarters?", r"fifths?", r"tenths?", r"twentieths?",
    r"(?:an?|one|two|three|five|seven) (?:sixth|seventh|eighth|ninth|eleventh|twelfth|hundredth)s?",
    r"(?:six|seven|eigh|nin|eleven|twelf|hundred)ths", "double", "twice", "thrice", "treble", "triple",
    "quadruple", "quintuple", r"(?:two|three|four|five|ten)[ -]?fold",
    r"(?:two|three|four|five|ten) times (?:as|that|the|this|your)", r"(?:out of|in) (?:ten|twenty|a hundred)",
)  # fmt: skip
# Number words above a hundred.
_LARGE = _words(r"hundreds", r"thousands?(?! thanks)", r"(?<!thanks a )[mb]illions?")
# "three additional ones", "six months more"
_NUMBERS = rf"(?:{ANY_TEN}|{ANY_TEEN}|{ANY_ONE})"
_LONGER = re.compile(
    rf"\b{_NUMBERS} (?:months? )?(?:additional|extra|further|more)(?: ones?| months?| bills?|(?= ?(?:[.,;!?]|$|after)))"
)
# What isn't taken off, though the percentage is the offer's: dearer, what is left to pay, a second time.
_SHARE = rf"\b(?:\d{{1,3}}|{_NUMBERS}) ?-?{_PERCENT}"
_NOT_OFF = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:rais\w+|rise[ns]?|rising|increas\w+|grow\w*|grew|climb\w*|jump\w*|hik(?:es?|ed|ing)|"
        rf"surcharges?) (?:\w+ ){{0,6}}?{_SHARE}(?! ?(?:off|discount|reduction|less))",
        rf"\b(?:go(?:es|ing)?|went) up (?:\w+ ){{0,3}}?{_SHARE}|\b(?:charges?|costs?|fees?) (?:of )?{_SHARE}",
        rf"{_SHARE} (?:are|be|gets?|is|will be) (?:added|charged)\b",
        rf"\badd(?:s|ed|ing)? (?:\w+ ){{0,4}}?{_SHARE}(?! ?(?:off|discount|reduction|less))",
        rf"{_SHARE} (?:\w+ ){{0,3}}?(?:again|more|higher|dearer|extra|another|increases?|rises?|surcharges?|on top)\b",
        rf"{_SHARE} (?:off |less )?(?:after|from then)\b",
        rf"\b(?:pay(?:s|ing)?|costs?|owe|charges? you|only|just) (?:\w+ ){{0,2}}?{_SHARE}"
        r"(?! ?-?(?:off|less|lower|cheaper|smaller|discount|reduction|of (?:\w+ ){1,3}(?:off|back|away)))",
        rf"\b(?:at|be|becomes?|is|to) {_SHARE} of\b",
        rf"\b(?:cut|down|drops?|falls?|lower(?:ed)?|reduced?|shrinks?) (?:\w+ ){{0,4}}?to (?:just |only )?{_SHARE}",
        rf"{_SHARE}.*?\b(?:also|and|or|plus|then) (?:\w+ ){{0,2}}?{_SHARE}",
    )
)
_GIFTS = (
    r"(?:accessor(?:y|ies)|cameras?|consoles?|games?|handsets?|headphones?|ipads?|iphones?|laptops?|"
    r"(?:smart ?)?phones?(?! (?:call|line|number))|speakers?|tablets?|televisions?|tickets?|tvs?|"
    r"(?:smart ?)?watch(?:es)?)"
)
_REPLY = r"(?:answer|enter|message|reply|respond|say|send|text|type|write)(?: back| us| with)?"
_ANSWER = r"(?:an? )?(?:\w+ )?(?:answer|call|copy|letter|text)\b"
_WORD_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "promise",
        _words(
            r"(?<!feel )free", r"gifts?", r"vouchers?", r"coupons?", r"refund\w*", r"rebate\w*", r"cash ?back",
            r"credit(?! card)\w*", r"waive\w*", r"complimentary", r"bonus\w*",
            r"(?:no|without|zero) (?:\w+ )?(?:charge|cost|fee|payment)s?", r"prizes?", r"rewards?", r"on the house",
            r"(?<!count )(?<!rely )on us", r"throw(?:ing)? in", r"our treat", r"ourselves",
            r"we(?: will|ll| can| would|d| shall)? (?:\w+ ){0,2}(?:pay|cover|settle)",
            r"(?:pay|pays|paying|cost|costs|charge|charged|owe) (?:\w+ ){0,2}nothing", r"nothing (?:more )?to pay",
            r"presents?(?! (?:plan|bill|contract|tariff|address|service|router)s?\b)", r"surprise", r"upgrade\w*",
            r"money", r"cash", r"dollars?", r"euros?", r"pounds?", r"cents", r"pence", r"penn(?:y|ies)", r"bucks?",
            r"quid", r"tenners?", r"fivers?", r"grand", r"usd", r"eur", r"gbp",
            rf"(?:gets?|receive|earn|win|collect|gain|send you|give you)(?: also)? (?:an?|another|some|one|two|extra) "
            rf"(?:\w+ )?{_GIFTS}", rf"(?:your|the|an?) (?:new |extra |second )?{_GIFTS} (?:is|are) (?:yours|included)",
            rf"you(?:ll| will)? (?:get|receive) (?!{_ANSWER})(?:an?|another|some) (?:\w+ ){{1,3}}(?:as well|"
            rf"from us|on top|too)", rf"you(?:ll| will)? also (?:get|receive|win|earn) (?!{_ANSWER})",
            r"(?:loyalty|extra|more|thousand|hundred|earn|collect) points", r"points (?:to|are|as) (?:spend|yours)",
            rf"{_SHARE} off (?:\w+ )?(?:new |next )?(?:devices?|friends?|neighbou?rs?|orders?|purchases?|routers?|"
            rf"{_GIFTS})",
        ),
    ),
    (
        "guarantee",
        _words(
            r"guarant\w*", r"promis\w*", "always", "never", r"life ?time", r"for life", r"ever again",
            r"no matter what", r"definitely", r"certainly", r"assured?", r"no strings\w*", r"no catch", r"riskfree",
            r"(?:best|lowest|cheapest) (?:price|rate|deal|offer)s?", "cheapest", r"permanent\w*", r"for ?ever\w*",
            r"(?:for )?as long as", r"while you are",
            r"for good(?! (?:advice|company|feedback|ideas?|measure|questions?|reasons?|service)\b)", r"indefinite\w*",
            r"until further", r"unlimited", r"rest of your", r"you have our word", r"rest assured", r"without fail",
            r"no end", r"(?:whatever|no matter what) (?:comes|happens|may come|may happen)",
            r"(?:wont|will not|cannot|cant|not going to) (?:\w+ )?(?:climb|go up|grow|increase|rise|get dearer)",
            r"nothing (?:will|can|could|would|ever)(?: ever)? (?:break|fail|go|goes|happen)",
            r"you (?:can|may|will) (?:be|feel|rest) (?:\w+ )?(?:certain|confident|sure)",
            r"be sure of (?:it|that|this)", r"lock(?:s|ed|ing)? (?:\w+ ){0,3}?in", r"pledg\w*",
            r"sw(?:ear|ears|ore|orn)", r"vow(?:s|ed)?", r"(?:beyond|no|without)(?: an?| any| the slightest)? doubts?",
            r"undoubted\w*",
            r"sure thing", r"(?:no|zero) chance (?:of|that)", r"absolutely (?:certain|every|no|nothing|safe|sure)",
            r"(?:bills?|charges?|prices?|rates?) (?:is|are|stays?) (?:\w+ )?(?:fixed|frozen|locked|secured)",
        ),
    ),
    (
        "pressure",
        _words(
            r"hurry", r"urgen\w*", "immediately", r"act (?:now|fast|today|quickly)", r"right (?:now|away)",
            r"last chance", r"final\w*", r"(?:only|just) today", r"today only", r"only (?:\w+ ){0,2}left", r"limited",
            r"expir\w*", r"deadlines?", r"miss(?:ing)? out", r"(?:dont|do not|cant|never) miss", r"too late",
            r"ends? (?:soon|today|tonight)", r"while (?:it|stocks?|supplies) lasts?", r"must", r"or lose", r"losing",
            r"regret\w*", r"running out", r"once in a", r"now or never", r"before (?:its|it is) gone", r"asap",
            r"warning", r"penalt\w*", r"today", r"tonight", r"tomorrow", r"midnight", r"noon", r"soon(?:est|er)",
            r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?", r"weekends?", r"this (?:week|month|year|morning|evening)",
            r"within (?:\w+ ){0,2}(?:hour|day|week)s?", r"by the end", r"end of", r"until", r"instant\w*", r"at once",
            r"straight away", r"only (?:now|until|for)", r"(?:reply|call|act|answer|decide|respond|accept) (?:now|by)",
            r"dont (?:wait|delay|hesitate)", r"do not (?:wait|delay)", r"without delay", r"time is", r"exclusive\w*",
            r"slip(?:s|ping)? away", r"clock", r"opportunit\w*", r"pass(?:es)? (?:me|us|you) by",
            r"(?:filling|going|selling) (?:up |out )?(?:fast|quickly)", r"(?:few|handful of) (?:places|seats|spots)",
            r"(?:only|just) (?:a )?(?:few|handful)", r"(?:places|seats|spots) (?:\w+ )?(?:left|remain\w*)",
            r"(?:be|get) (?:\w+ )?(?:cut|shut) (?:down|off)", r"(?:cut|shut) (?:it|you|your \w+) (?:down|off)",
            r"disconnect\w*", r"suspend\w*", r"or (?:your|the|this) (?:\w+ ){1,2}(?:will|may|could|ends?|stops?|goes)",
            r"(?:contract|internet|line|plan|service)s? (?:will|may|could|is going to) (?:\w+ )?(?:close|end|stop)",
            r"(?:account|contract|internet|line|plan|service)s? (?:will|may|could) (?:\w+ )?be (?:\w+ )?"
            r"(?:blocked|closed|cut|ended|stopped)",
            r"if you (?:do not|dont|fail to|ignore|refuse)(?: to)? (?:accept|act|answer|call|confirm|it|reply|respond|"
            r"this|us)",
            r"(?:clos(?:es?|ing)|shuts?|disappears?|ends?|ending|gone|over|stops?|vanish(?:es)?) (?:with)?in "
            r"(?:\w+ ){1,2}?(?:hour|minute|second|day|week)s?", r"(?:offer|window) (?:\w+ )?clos(?:es?|ing)",
            r"(?:has|have|had|got|get|is|are) (?:\w+ ){0,2}(?:hour|minute|day|second)s? (?:left|to (?:accept|act|"
            r"answer|choose|decide|react|reply|respond|say|take))",
            r"(?:has|have|leaves? you|with) no (?:\w+ )?(?:alternative|choice|option)s?",
            r"legal (?:\w+ )?(?:actions?|consequences?|measures?|means|proceedings|steps?)", r"law ?suits?",
            r"lawyers?", r"(?:in|to) court", r"su(?:ed|ing) you", r"debt collect\w+", r"collection agenc\w+",
            r"bailiffs?",
            r"otherwise,? (?:i|it|our|the|there|they|this|we|you|your)(?! keep)",
            r"(?:double|hike|increase|raise) your (?:\w+ )?(?:bill|charge|fee|price|rate)s?",
            r"first[ -]+come", r"first[ -]served", r"(?<![a-z] )be (?:fast|quick|swift)(?! and)",
            r"(?:but|do|just|please|so) be (?:fast|quick|swift)", r"(?:another|one|only|second|single) chances?",
            r"count ?downs?", r"ticking", r"no later than", r"before (?:anyone|some(?:body|one)) else",
            r"timers?", r"while you (?:still )?can",
        ),
    ),
    (
        "link",
        _words(
            r"https?", r"www", r"click\w*", r"links?", r"dot com", r"tap here", r"web ?sites?", r"download\w*", r"qr",
            r"dot", r"slash", r"url", r"home ?pages?", r"portal", r"online at", r"scan", r"e?mails? (?:us|me)",
            r"[a-z]*dotcom", r"com", r"org", r"biz", r"[a-z]+ \. ?(?:app|co|de|eu|info|io|net|uk)",
            r"(?:browse|check(?: out)?|follow|like|see|visit) (?:my|our|the|this) (?:\w+ )?(?:(?:face|web)?page|"
            r"profile|site)s?",
            r"(?:hit|press|push|tap|touch) (?:on )?(?:our|that|the|this) (?:\w+ )?(?:arrow|banner|button|icon|image|"
            r"picture|symbol)", r"buttons? (?:above|below|here)", r"tap (?:below|on)",
            r"(?:get|install|launch|open|use|try) (?:an?|our|that|the|this) (?:\w+ )?apps?",
            r"whats ?app", r"telegram", r"viber", r"messenger", r"facebook", r"instagram", r"tik ?tok", r"snapchat",
            r"skype", r"we ?chat", r"twitter", r"linked ?in", r"you ?tube",
        ),
    ),
    (
        "identifier",
        _words(
            r"(?:customer|account|contract|phone|card|reference) (?:number|no|id|code)s?", r"passwords?", r"pin",
            r"iban", r"social security", r"date of birth", r"your ids?", r"user ?names?", r"credentials",
            r"(?:account|bank|card|login|payment|personal) (?:details|data|information)", r"sort codes?", r"cvv",
            r"secret (?:answer|code|question|word)s?", r"security (?:code|question)s?", r"pass(?:code|phrase)s?",
            r"(?:full|home|postal|street) address", r"(?:log|sign)(?:ging|ing)? ?in(?:to)?(?= (?:to|at|with|and|here))",
            r"logins?", r"(?:enter|confirm|send us|give us|tell us|text us|verify) your (?:\w+ )?(?:address|card|name)",
            r"passports?", r"ssn", r"(?:insurance|tax(?:payers?)?) (?:code|file|id|identification|number)s?",
            r"driv(?:ers|ing) licen[cs]es?", r"(?:identity|id) (?:card|document|number|paper)s?", r"birth ?dates?",
            r"(?:forward|give|read|send|share|tell|text) (?:me |us )?(?:\w+ ){1,2}?codes?",
            r"codes? (?:that )?we (?:\w+ )?sent", r"one ?time (?:code|pass\w*|pin)s?", r"otp", r"verification",
            r"authenticat\w*", r"bank account",
            r"(?:copy|photo(?:graph)?|picture|scan)s? of your", r"what is your (?:\w+ ){0,2}?(?:code|id|name|number)",
            rf"(?:(?:{_NUMBERS}|oh|double|triple)[ ,-]+){{3,}}{_NUMBERS}",
        ),
    ),
    (
        "risk talk",
        _words(
            r"predict(?!ab(?:le|ly)\b)\w*", r"forecast\w*", r"churn\w*", r"risk\w*", r"likel(?:y|ihood)", r"probab\w*",
            r"algorithm\w*", r"models?", r"scores?", r"scored", r"profil\w*", r"analy[sz]\w*", r"machine learning",
            r"artificial\w*", r"our (?:data|records|systems?)", r"leav(?:e|es|ing)", r"left us", r"much longer",
            r"stay\w*", r"remain(?:ing)? (?:with|a|our)", r"quit(?:s|ting)?", r"about to", r"you(?:r)? go(?:ing)?",
            r"los(?:e|ing) you", r"keep(?:ing)? you", r"part ways", r"departure", r"depart", r"farewell",
            r"good ?bye\w*", r"elsewhere", r"mov(?:e|ing) (?:on|away)", r"other providers?", r"retain\w*",
            r"retention", r"terminat\w*", r"unsubscrib\w*", r"win you back", r"cancel\w*", r"switch\w*",
            r"notic(?:ed|ing)", r"we (?:have )?(?:seen?|saw|know) (?:that )?you", r"monitor\w*", r"track\w*",
            r"competitors?", r"selected", r"(?:seen|saw|observed?|detected|spotted) (?:that )?your",
            r"(?:chose|flagged|marked|picked|ranked|rated|singled|sorted) you", r"(?:picked|singled) (?:you )?out",
            r"you (?:are|were|have been|was) (?:\w+ )?(?:chosen|flagged|marked|picked|ranked|rated|singled|sorted)",
            r"computers? (?:\w+ )?(?:believes?|chose|flagged|found|picked|says?|thinks?|tells?|told)",
            r"you(?: have)?(?: \w+)? complain(?:ed|ing)?",
            r"your us(?:e|age) (?:\w+ ){0,3}(?:chang\w+|declin\w+|down|drop\w*|f[ae]ll\w*|less|lower|shrink\w*|"
            r"sink\w*)",
            r"(?:do not|dont|not want you to|rather you did not|see you|let you|before you|thinking of) go(?:ing)?"
            r"(?= ?(?:[.,;:!?]|$|away|anywhere|now|yet|to (?:anyone|another|anybody|others?|someone|somebody)))",
            r"go(?:es|ing)? to (?:another (?:company|firm|network|one|provider)|(?:any|some)(?:body|one) else)",
            r"ai", r"robots?", r"segment\w*", r"target groups?", r"(?:others|people|those|users) like you",
            r"(?:clients|customers) like you (?:\w+ ){0,2}?(?:go|often|tend|usually|walk)", r"tend to (?:go|walk)",
            r"walk(?:s|ing)? (?:away|out)", r"jump(?:s|ing)? ship", r"we (?:\w+ )?(?:fear|suspect|worry)",
            r"worried (?:about you|that you)", r"(?:chosen|computed|picked) by",
        ),
    ),
    (
        "protected attribute",
        _words(
            r"genders?", r"sex\w*", r"males?", r"females?", r"man", r"men", r"wom[ae]n", r"lad(?:y|ies)",
            r"gentlem[ae]n", "sir", "madam", "maam", r"mr", r"mrs", r"ms",
            r"(?:dear|hello|hi|good morning|good evening|thank you|and|or) miss", r"boys?", r"girls?", r"husbands?",
            r"wi(?:fe|ves)", r"spouses?", r"(?:a|an|her|his|life|the|your) partners?", r"partners? (?:and|in life|or)",
            r"marri\w*", r"divorc\w*", r"widow\w*", r"singles",
            r"single (?:and|customers?|households?|m[ae]n|people|person|wom[ae]n)",
            r"(?:are|being|if|you|youre) single", r"senior\w*", r"elder\w*",
            r"(?:too|years|you are|youre|getting) old(?:er)?",
            r"old(?:er)? (?:adults?|age|customers?|folks?|m[ae]n|one|ones|people|persons?|wom[ae]n)",
            r"the (?:old|older|oldest)(?: and| among|,|\.)", r"oldies", r"young\w*", r"age", r"aged", r"ages",
            r"retire\w*", r"pension\w*", r"child\w*", r"kids?", r"famil(?:y|ies)", r"dependa?ents?", r"dependants?",
            r"pregnan\w*", r"(?:grand|step|god)?(?:mother|father|parent|son|daughter)(?:s|ly|al|hood)?",
            r"(?:grand|step|god)child\w*", r"grand(?:ma|pa)s?", r"gran(?:ny|nies|dad)?", r"mom(?:s|my)?",
            r"mum(?:my|s)?", r"dad(?:dy|s)?", r"aunts?", r"uncles?", r"brothers?", r"sisters?", r"bab(?:y|ies)",
            r"teen\w*", r"adults?", r"youth\w*", r"boyfriends?", r"girlfriends?", r"fianc\w*", r"unmarried",
            r"bachelor\w*", r"bride\w*", r"birthdays?", r"middle aged", r"rac(?:e|ial)", r"ethnic\w*", r"religi\w*",
            r"christian\w*", r"muslims?", r"islam\w*", r"jew\w*", r"catholic\w*", r"protestant\w*", r"orthodox",
            r"evangelical\w*", r"mormon\w*", r"hindu\w*", r"buddhis\w*", r"sikh\w*", r"atheis\w*", r"god", r"faith\w*",
            r"church\w*", r"mosques?", r"temples?", r"synagogues?", r"pray\w*", r"christmas", r"easter", r"ramadan",
            r"(?:black|white) (?:americans?|communit(?:y|ies)|customers?|famil(?:y|ies)|folks?|m[ae]n|neighbou?rs?)",
            r"(?:black|white) (?:people|persons?|wom[ae]n)",
            r"(?:are|being|youre) (?:black|white)", r"asian\w*", r"african\w*", r"hispanic\w*", r"latin\w*",
            r"arab\w*", r"queer", r"(?:bi|homo|hetero|trans)sexual\w*", r"transgender\w*", r"wheelchair\w*", r"blind",
            r"deaf", r"handicap\w*", r"illness\w*", r"disease\w*", r"politic\w*", r"migrants?", r"refugees?",
            r"turk(?:s|ish)", r"poles", r"polish (?:and|or|customers?|people)", r"mexicans?", r"germans?", r"french",
            r"italians?", r"spani(?:sh|ards?)", r"portuguese", r"greeks?", r"russians?", r"ukrainians?", r"romanians?",
            r"bulgarians?", r"hungarians?", r"czechs?", r"serb(?:s|ian\w*)", r"croat(?:s|ian\w*)", r"albanians?",
            r"dutch", r"swedes?", r"swedish", r"norwegians?", r"danes", r"finnish", r"irish", r"scottish", r"welsh",
            r"chinese", r"japanese", r"koreans?", r"vietnamese", r"filipin\w+", r"indians?", r"pakistani\w*",
            r"bangladeshi\w*", r"iranians?", r"persians?", r"iraqi\w*", r"syrians?", r"afghans?", r"kurd(?:s|ish)",
            r"israeli\w*", r"palestinians?", r"lebanese", r"egyptians?", r"moroccans?", r"algerians?", r"tunisians?",
            r"nigerians?", r"kenyans?", r"ethiopians?", r"somalis?", r"brazilians?", r"cubans?", r"colombians?",
            r"gyps\w+", r"\w+(?:ish|ese|ian|ean|can)s? (?:communit(?:y|ies)|customers?|neighbou?rs?|people|speakers?)",
            r"accents?", r"(?:first|mother|native) (?:tongue|language|speakers?)", r"cancers?", r"tumou?rs?",
            r"diabet\w*", r"depress\w*", r"autis\w*", r"dementia", r"alzheimers?", r"asthma\w*", r"epilep\w*", r"hiv",
            r"strokes?", r"sick(?:ness)?(?! of)", r"surger\w+", r"hospitals?", r"medic\w+", r"mental\w*",
            r"your (?:doctor|health|therapy)", r"obes\w*", r"overweight",
            r"liv(?:e|es|ing) (?:all )?(?:alone|by yourself|on your own)",
            r"(?:no|without|lost|have) (?:a |any |your )?partner", r"(?:you are|youre|being|too) (?:\w+ )?poor",
            r"poverty", r"unemploy\w*", r"jobless", r"welfare",
            r"house ?(?:husband|wi(?:fe|ve))s?", r"skin", r"people of colou?r", r"trans", r"non ?binary", r"lgbt\w*",
            r"(?:k|q)u?r[ao]a?n", r"bible", r"torah", r"gospel", r"scriptures?", r"allah", r"rabbis?", r"imams?",
            r"as an? (?!finish|guardian|technician)[a-z]{3,}(?:can|ese|ian|ish)", r"(?:fellow )?americans?",
            r"british", r"britons?",
            r"canadians?", r"australians?", r"europeans?", r"incomes?", r"salar(?:y|ies)", r"wages?", r"working class",
            r"(?:your|low) earnings", r"on benefits",
            r"disab\w*", r"gay", r"lesbian\w*", r"national\w*", r"immigra\w*", r"citizen\w*", r"foreign\w*",
        ),
    ),
    (
        "insult",
        _words(
            r"stupid\w*", r"idiot\w*", r"damn\w*", r"dumb\w*", r"moron\w*", r"imbecile\w*", r"fool\w*", r"hell",
            r"(?:bull)?shit\w*", r"\w*fuck\w*", r"crap\w*", r"bastard\w*", r"bitch\w*", r"ass", r"arse\w*",
            r"asshole\w*", r"bloody", r"piss\w*", r"suck\w*", r"losers?", r"shut up",
            r"hat(?:e|es|ed) (?:by|customers?|everyone|him|her|people|them|to|us|you)", r"lazy", r"ugly", r"pathetic",
            r"ridiculous\w*", r"ignoran\w*", r"worthless", r"useless", r"(?:cheap|tight)\w*skates?", r"even you",
            r"scum\w*", r"kill\w*", r"die", r"clowns?", r"clueless", r"stingy", r"greedy", r"gullible", r"nuisance",
            r"silly (?:boy|child|girl|man|men|people|person|thing|woman|you)", r"you silly",
            r"(?:you|youre|you are|you must be) (?:(?:an?|just|quite|rather|really|so|such|too|very) )*(?:annoying|"
            r"careless|childish|clumsy|crazy|daft|difficult|dim|dull|hopeless|incapable|incompetent|insane|joke|mad|"
            r"naive|rude|selfish|silly|slow|thick)",
            r"(?:arent|isnt|not|never|hardly) (?:\w+ )?(?:bright|clever|intelligent|sharp|smart)(?:est)?",
            r"not the (?:brightest|cleverest|sharpest|smartest)",
            r"complain(?:s|ed|ing)? (?:again|a lot|all the time|so|too)",
            r"cunt\w*", r"wank\w*", r"whor(?:es?|ing)", r"slut\w*", r"retard(?:s|ed)?", r"dick ?heads?", r"jerks?",
            r"pigs?", r"swine", r"twats?", r"pricks?", r"bollocks", r"tossers?", r"douche\w*", r"cretin\w*",
            r"vermin", r"filth\w*", r"nigg(?:a|er)s?", r"fag(?:got)?s?", r"kikes?", r"chinks?", r"spics?", r"wetbacks?",
            r"pakis?", r"trann(?:y|ies)", r"dykes?", r"coons?", r"gooks?", r"ragheads?", r"mongoloids?", r"nazis?",
        ),
    ),
    (
        # Also behind quotation marks: Reply "STOP".
        "opt-out",
        _words(
            r"opt(?:s|ed|ing)?[ -]?(?:in|out)", r"un ?subscrib\w*", r"mailing list",
            rf"{_REPLY} [\"“]?(?:cancel|end|exit|halt|off|quit|remove|stop)",
            rf"{_REPLY} [\"“]?no[\"”]? (?:and we(?: will|ll)? (?:add|set)|if you (?:accept|agree|like|want|would "
            r"like)|to (?:accept|agree|get|have|say yes|take|keep"
            r"(?! (?:everything|it|things|what|(?:the|your) (?:\w+ )?(?:contract|plan|tariff)))))",
            rf"{_REPLY} [\"“]?yes[\"”]? (?:if you do not|if you dont|to) (?:decline|refuse|reject|say no|want)",
            r"(?:footer|line|note|part|sentence|text|words?|message)s? (?:above|at the bottom|below|underneath)",
            r"(?:below|under(?:neath)?) (?:it|this) (?:line|message|note|text)", r"below this", r"(?:fine|small) print",
            r"silence (?:counts|is|means)",
            r"(?:no|without (?:an?|your)) (?:answer|reply|response) (?:counts|is|means)",
            r"by (?:getting|ignoring|keeping|opening|reading|receiving) (?:it|our|the|this)", r"consent\w*",
            r"(?:counts?|read|taken|treated|understood) as (?:an? |your )?(?:acceptance|agreement|yes)",
            r"(?:getting|keeping|opening|reading|receiving) (?:it|our|the|this) (?:\w+ )?(?:counts|is|means)",
            r"automatically (?:accept|agree|enrol)\w*",
            r"(?:can ?not|cant|no way to|unable to) (?:\w+ )?(?:decline|refuse|say no|stop (?:it|our|these|this))",
            r"(?:end|get out of|getting|receive|receiving|stop) (?:\w+ )?(?:further|future|more|our|such|these) "
            r"(?:mails|messages|texts)",
            r"(?:(?:best|good|kind|warm) wishes|regards|sincerely|yours (?:faithfully|truly))[ ,:–—-]+"
            r"(?!(?:from )?(?:all|our|the|us|your)\b)[a-z]+",
            r"vodafone", r"verizon", r"comcast", r"xfinity", r"telekom", r"t ?mobile", r"at ?& ?t", r"amazon",
            r"google", r"microsoft", r"netflix", r"paypal", r"ebay", r"virgin media", r"telefonica",
        ),
    ),
)  # fmt: skip
_PRICE = r"(?:bills?|charges?|costs?|fees?|payments?|plan|prices?|rates?)"
_OF_WHOM = r"(?:(?:a|her|his|monthly|the|that|this|what|you|your) ){0,3}"
_DISCOUNT = _words(
    r"discount\w*", r"money off", r"off your", rf"reduc\w* (?:\w+ ){{0,3}}{_PRICE}", r"reduced", r"reductions?",
    r"cheaper", r"sav(?:e|es|ing|ings)", r"deals?", r"special (?:price|rate|offer)s?", r"less (?:per|each|every) month",
    rf"(?:lower\w*|less|smaller|lighter|lessen\w*|shrink\w*|trim\w*|slash\w*|cut\w*) {_OF_WHOM}{_PRICE}",
    r"(?:lower\w*|reduc\w*|shrink\w*|trim\w*|cut\w*) what you (?:are )?pay(?:ing)?",
    r"(?:pay|spend)(?:ing)? (?:\w+ ){0,2}?less",
    rf"(?:bring|get|cut|take|push)(?:s|ting|ing)? (?:\w+ ){{0,2}}{_PRICE} (?:down|lower)",
    rf"(?:bring|cut|get|push)(?:s|ing|ting)? down (?:\w+ ){{0,2}}{_PRICE}", r"less expensive",
    r"(?:bills?|charges?|costs?|fees?|payments?|prices?|rates?) (?:\w+ ){0,3}?(?:lower|smaller|lighter|"
    r"less(?! (?:effort|fuss|hassle|noise|paper|stress|time|trouble|work))|(?:goe?s?|going|comes?|coming|went|came) "
    r"down|falls?(?! due| on)|drops?|shrinks?)",
    r"(?:price|rate|bill) cuts?", r"cuts? (?:in|on|to) (?:\w+ )?(?:bills?|charges?|prices?|rates?)", r"promo\w*",
    r"bargain\w*", r"(?:better|fairer|good|great|kinder|nicer) (?:price|rate)s?",
    r"(?:an?|another|best|better|good|great|new|our|special|the|this|your) offers?",
)  # fmt: skip

# Phrases that hold a word of the lists above and mean no harm. Before anything is looked for, each is replaced by a
# word that means nothing; what stands around it is judged as before. None has a gap for words of the writer's choice.
_IDENTIFIER = (
    r"(?:(?:customer|account|contract|phone|card|reference) (?:number|id|code)s?|passwords?|pin|iban|date of birth|"
    r"(?:bank|card|login) details|user ?names?)"
)
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?"
_HOUR = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_SOON = r"(?:the next (?:few )?days|a few days|a couple of days|(?:a|one|two|three) days?)"
_HARMLESS = _words(
    # amounts and times
    r"half an hour(?:s)?", r"half past", r"double[ -]?check\w*", r"third part(?:y|ies)",
    rf"(?:be in touch|get back to you|call you(?: back)?|ring you|write to you) (?:with)?in {_SOON}",
    r"(?:thanks?|thank you) for (?:(?:all|these|those|the|your|many|another|a|two|three|good|past|last) ){1,3}"
    r"(?:years?|months|weeks) with us",
    r"thank you for (?:(?:all|these|many|one|two|three|several) )+good years", r"every day of the week",
    r"your first (?:days|weeks|months) (?:were|went|are|have been)", r"part of a month",
    r"(?:thanks?|thank you) for (?:all |these |many |the |two |three |several |a few )+(?:months|years) as (?:a|our) "
    r"customer", r"(?:beginning|begins|from|starting|starts) today(?! only)",
    r"have a (?:good|great|lovely|nice|pleasant) (?:day|evening|week|weekend)",
    r"(?:as of|beginning|from|starting) (?:the )?(?:coming|next|this) month(?! only)(?: on| onwards?)?",
    r"(?:custom|loyalty|patience|support|trust) over (?:all )?(?:the|these) (?:many )?years",
    rf"we (?:will |can |ll )?(?:add|answer|call|check|come|fix|put|reply|ring|set|text|write)(?: (?:back|everything|in "
    rf"place|it|that|this|to|up|you|your message|your question)){{0,3}} (?:with)?in {_SOON}",
    rf"(?:it|that|this) (?:is|will be) (?:active|added|done|in place|ready|set up) within {_SOON}",
    rf"(?:answer|call|here|open|phone|reach us|ring|there)(?: (?:each day|every day|for you|on weekdays|us|you))* "
    rf"(?:between|from) {_HOUR} (?:and|to|until) {_HOUR}(?= ?(?:[.,;!?]|$|every day|on weekdays|oclock))",
    r"wi-?fi [4-7](?= ?(?:[.,;!?](?!\d)|$|box|router|and (?:a|the)\b))",
    # what isn't offered
    r"sav(?:e|es|ing|ed) you (?:a|the|some|another) (?:call|time|trip|visit|way|effort)", r"sav(?:e|es|ed|ing) your "
    r"(?:settings?|numbers?|contacts?|time)", r"a (?:good|great) deal of (?:care|thought|time|work)", r"deals? with",
    # promises
    r"(?:hassle|hands|noise|stress|trouble|worry)[ -]free",
    r"free of (?:bother|clutter|delays?|faults?|hassle|interruptions?|jargon|noise|queues?|trouble|worr(?:y|ies))",
    r"(?:when|if|whenever) you(?: a)?re free", r"at present", r"(?:and|or|pay|paying|payments?) (?:in|by|with) cash",
    r"value for (?:your )?money", r"(?:feedback|opinion|thoughts|views?|word) on us",
    r"(?:always|are|feel|youre) free to (?:ask|call us|choose|decide|decline|ignore|refuse|reply|ring us|say|tell us)",
    r"(?:no|without) (?:any )?(?:additional|extra|hidden) fees",
    r"as a (?:little |small )?reward for (?:all )?your (?:custom|loyalty|patience|trust)",
    # guarantees; not "always works", "never share your data", "no catch", "nothing to pay now": a claim that nobody who
    # writes a message can answer for, or one that is read as a gift
    r"as always", r"always (?:glad|happy|pleased)",
    r"(?:it is|its|were|we are|you are|youre) always (?:a pleasure|here|open|ready|there|welcome)",
    r"(?:can|could|may) always (?:ask|call|reach|ring|write)(?! (?:by|now)\b)",
    r"never a (?:bother|problem|trouble|nuisance)",
    r"(?:speak|talk|listen|chat) (?:it over )?(?:for )?as long as you (?:like|need|want|wish)",
    # pressure
    r"(?:no|isnt|never|not|nothing|without)(?: a| an| any| in a)? (?:deadlines?|hurry|obligation|pressure|rush)",
    r"(?:no|isnt|never|not|nothing|without)(?: any)? (?:time limit|urgency|urgent)",
    r"(?:dont|do not|neednt|need not|no need to) (?:have to |need to )?(?:act|answer|decide|hurry|reply|rush)"
    r"(?: (?:at once|immediately|now|right away|straight away|today))?",
    rf"{_WEEKDAY} (?:to|through) {_WEEKDAY}", r"(?:evenings|weekdays) and (?:at |on )?weekends",
    r"(?:now|today|tomorrow) or (?:any ?time|whenever|when) (?:it suits you|that suits you|you like|you wish)",
    r"if you (?:do not|dont) (?:answer|reply),? nothing (?:at all )?(?:changes|happens)",
    r"(?:take|taking|use|using) (?:the|this) opportunity to (?:ask|say|tell|thank)",
    r"cards? (?:has |have |is |may have |will )?(?:about to )?expire[ds]?",
    r"(?:being|are) (?:here|with us) today",
    r"(?:dont|do not|never) hesitate to (?:ask|call|contact|reach|ring|tell|write)(?! (?:by|now)\b)",
    # links and identifiers
    r"you keep your (?:old |own )?phone number", r"links? (?:with|to|between) (?:you|us)",
    r"(?:can|could|will|to) link (?:both(?: of)?|all(?: of)?|two(?: of)?) "
    r"(?:your )?(?:accounts|bills|lines|phones|plans)", r"(?:in|on) (?:our|the) web ?site",
    r"(?:never|not|dont|wont) (?:ever )?(?:asks?(?: you)? for|needs?|wants?|requires?) (?:a |any |the |your )?"
    rf"{_IDENTIFIER}",
    rf"no {_IDENTIFIER} (?:is |are )?(?:needed|required|necessary)",
    r"(?:call|ring|reach) (?:you on )?the phone number that (?:we have|you gave)",
    # staying and leaving, watching
    r"leave (?:it|that|the rest|everything) to us", r"leave (?:us )?a (?:message|note)",
    r"stays? (?:as it is|the same)",
    r"(?:thanks?|thank you) for staying with us",
    r"stay(?:ing)? (?:connected|in contact|in touch|informed|up to date)",
    r"keep(?:ing)? you (?:connected|informed|posted|updated|up to date|in the picture)",
    r"(?:keep|keeps|keeping) track of (?:your|the|all)", r"pay[ -]as[ -]you[ -]go",
    r"switch(?:ing)? to (?:paperless(?: billing)?|paper bills?|direct debit|electronic bills?)",
    r"switch(?:ing)? (?:it |them )?(?:on|off)", r"(?:box|device|handset|modem|phone|router|tv) models?",
    r"(?:can|may) cancel (?:it |this |that )?(?:(?:at )?any time|whenever you (?:like|want|wish))",
    r"switch you to (?:a|another) (?:better |bigger |different |new |simpler |smaller )?(?:plan|tariff)",
    r"our systems? (?:can |will )?(?:adds?|does|do|sets?) (?:it|that|this)(?: up)?(?: for you)?",
    # what is said of things; not "Ms Smith", which tells a customer's sex
    r"(?:a|one|every|each) single (?:bill|call|line|page|payment|place|plan|question|step|text|word)",
    r"old(?:er|est)? (?:bills?|box(?:es)?|cables?|devices?|equipment|handsets?|modems?|phones?|plans?|routers?|tv)",
    r"senior (?:advis[eo]rs?|colleagues?|engineers?|experts?|specialists?|technicians?)",
    r"american express", r"national (?:calls?|coverage|network|rates?)", r"in good faith",
    r"(?:our|with) (?:business |network |service )?partners (?:in your area|near you|on site)",
    r"no (?:bad |nasty )?surprises?",
    r"(?:box|feature|function|line|option|service|setting)s? (?:is|are|was|were) disabled",
    r"miss (?:a|an|any|the|your) (?:call|film|game|match|programme|series|show|song)",
    r"hate (?:forms?|paperwork|queues?|waiting)", r"fool-?proof",
)  # fmt: skip
_SHOUTED = re.compile(r"!\s*!|\b[A-Z]{6,}\b")
_CAPITALS = re.compile(r"\b[A-Z]{4,}\b")


def check(text: str, offer: int, months: int | None = None) -> list[str]:
    """What keeps a rendered message from being sent, in words: what unsafe() finds, its length, an unnamed offer."""
    broken = []
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
        broken.append(f"is {len(text)} characters long, not {MIN_LENGTH} to {MAX_LENGTH}")
    if offer and offer not in percentages(text):
        broken.append(f"does not name the offer of {offer}%")
    return [*broken, *(KINDS[kind] for kind in _unsafe(text, offer, months))]


def unsafe(text: str, offer: int, months: int | None = None) -> list[str]:
    """The kinds of KINDS that a rendered message breaks; empty for a safe one, of whatever length.

    `offer` is the chosen percentage, the only number that may be named (a text that names none is no worse than a
    disappointment: check() refuses it, this doesn't); 0 means that no discount may be
    mentioned. `months` is how long an offer runs, the only duration that may be named (None: none may be).

    Checked: characters; numbers in digits, and in English words up to a hundred, fractions and multiples; durations;
    and, by the word lists above, promises besides the offer, guarantees, pressure, links, identifiers, talk of risk, of
    selection and of staying or leaving, protected attributes, insults, opting out; capitals and spelled-out letters.
    Not checked: meaning. The same thought in words that no list has, a misspelling, another language, irony, a false
    claim about the service, a tone that is unkind without an insult: all of these pass.
    """
    return list(_unsafe(text, offer, months))


# About 500 us of regular expressions; a bank is small, so what is sent without a name was nearly always judged before.
@lru_cache(maxsize=4096)
def broken_rules(text: str, offer: int, months: int | None) -> tuple[str, ...]:
    """check(), as a tuple that is remembered."""
    return tuple(check(text, offer, months))


def percentages(text: str) -> set[int]:
    """The percentages that a text names, in digits or in English words, as the rules read them."""
    return _amounts(_plain(text), 0, None)[0]


def forbidden_words(text: str) -> list[str]:
    """The kinds whose word lists turn a text down, whatever else it says."""
    low = _plain(text)
    hints = [("discount", _DISCOUNT), ("percentage", _FRACTION), ("percentage", _SIGN), ("duration", _DURATION)]
    return [kind for kind, pattern in (*_WORD_RULES, *hints) if pattern.search(low)]


def _unsafe(text: str, offer: int, months: int | None) -> tuple[str, ...]:
    broken = []
    if not _CHARACTERS.fullmatch(text):
        broken.append("characters")
    low = _plain(text)
    broken += _amounts(low, offer, months)[1]
    joined = _JOINED.sub("", low)
    broken += [kind for kind, pattern in _WORD_RULES if pattern.search(low) or pattern.search(joined)]
    if offer == 0 and _DISCOUNT.search(low):
        broken.append("discount")
    if re.search(r"\w\.\w", low) and "link" not in broken:
        broken.append("link")
    # One short word in capitals is the name of a cable or of a technology, if it isn't another rule's.
    if text.count("!") > 2 or _SHOUTED.search(text) or len(_CAPITALS.findall(text)) > 1 or _SPELLED.search(low):
        broken.append("shouting")
    return tuple(broken)


def _plain(text: str) -> str:
    low = re.sub(r"\s+", " ", _APOSTROPHES.sub("", text.lower()))
    return _HARMLESS.sub(" so ", low)


def _amounts(low: str, offer: int, months: int | None) -> tuple[set[int], list[str]]:
    """The percentages that are named, and the kinds that are broken."""
    percentages, broken, spans = set(), [], []
    for match in _DIGITS.finditer(low):
        number = match[0].rstrip(".,")
        follows = low[match.start() + len(number) :]
        apart = match.start() == 0 or low[match.start() - 1] in " ("
        whole = apart and re.fullmatch("0|[1-9][0-9]?|100", number)
        if whole and _PERCENT_NEXT.match(follows):
            percentages.add(int(number))
        elif whole and (duration := _DURATION_NEXT.match(follows)):
            if months is None or duration[1] != "month" or int(number) != months:
                broken.append("duration")
            spans.append((match.start(), match.start() + len(number) + duration.end()))
        else:
            broken.append("number")
    for match in NUMBER_WORD.finditer(low):
        value = number_of(match)
        follows = low[match.end() :]
        duration = _DURATION_NEXT.match(follows)
        if duration:
            if months is None or duration[1] != "month" or value != months:
                broken.append("duration")
            spans.append((match.start(), match.end() + duration.end()))
        elif _PERCENT_NEAR.match(follows) or (value >= 5 and value % 5 == 0 and not _MINUTES_NEXT.match(follows)):
            percentages.add(value)
    rest = low
    for start, end in spans:
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    if _DURATION.search(rest) or _LONGER.search(low):
        broken.append("duration")
    if _LARGE.search(low):
        broken.append("number")
    unread = any(not _READ.search(low[: match.start()]) for match in _SIGN.finditer(low))
    wrong = percentages - ({offer} if offer else set())
    if unread or wrong or any(pattern.search(low) for pattern in (_FRACTION, _QUALIFIED, *_NOT_OFF)):
        broken.append("percentage")
    return percentages, list(dict.fromkeys(broken))
