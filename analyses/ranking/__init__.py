"""Does a layer's score predict what its student learns, before any training?"""
