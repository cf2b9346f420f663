"""Does a layer's score, before any training, predict what a student of it learns?"""
