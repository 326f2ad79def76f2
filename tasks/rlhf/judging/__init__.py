"""How good replies are: rewards, signs of reward hacking, the rule judge, and the figures that compare writers."""
