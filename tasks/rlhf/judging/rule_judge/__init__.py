"""The rule judge: how good a retention message is, by rules of its own.

It meets what PPO has learnt only after PPO has run, beside the final reward model, so it must not know what the
training pairs were made of: it imports the standard library alone, and none of its cues of two words or more in a row
stands in their generator (its test compares them). Single words do ("guarantee", "discount"), and words near each other
("account ... number", the pairs of a cue list): English has no others for some things. With the service's rules it
shares no code, not even the number words, which it reads by itself; what some of its cues name ("act fast") they refuse
too. Everything is counted with small parsers (`parsing`, `amounts`, `readability`) and with the lists of
ops/messages/cues.yaml (`cues`, `matching`). A score is a weighted sum of components (`offer`, `harm`, `style`): one
thing that is false or unsafe costs more than good manners make up for, and good manners are measured smoothly, so that
two decent messages seldom tie.
"""
