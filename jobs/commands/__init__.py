"""The commands of `faceatlas` besides `annotate`, a module each.

In: the words of the command line. Out: text or JSON on standard output, and files where the command says so.
"""
