"""Models as folders on disk: checks, digests, saving, reading back.

Where weights rest while they are used lies in placement/.
"""
