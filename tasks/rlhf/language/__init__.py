"""Language models themselves: loading, sampling, scoring and exact training, whatever they are to say."""
