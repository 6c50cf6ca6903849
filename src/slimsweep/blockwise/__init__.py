"""Running batches through a model block by block: walks, statistics of inputs, gradients.

What is done with the statistics lies in techniques/ and numerics/.
"""
