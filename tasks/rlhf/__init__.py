"""The words: a language model learns to write the message, by imitation, then by reward, and is judged by others.

`base` gives weights and tokenizer, `prompts` the retention domain. `sft` imitates; `rm` learns which of two replies is
better, twice (one reward for PPO, another that picks its checkpoint); `ppo_text` trains for that reward, held near SFT
by an adaptive KL penalty; `text_eval` asks two judges that PPO has never met. `messages` makes the bank that the
service reads: models write offline, rules and templates have the last word.
"""
