"""What every other package stands on: settings, files, errors, commands.

Nothing in this package shapes the content of an output, so it is on no stage's list of dependencies but `params`: a
reworded error message trains nothing anew. Code that decides what an output holds belongs into another package.
"""
