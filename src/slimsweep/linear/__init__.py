"""What may stand where nn.Linear stood: one file per form of storage.

What chooses the stored values lies in techniques/ and numerics/.
"""
