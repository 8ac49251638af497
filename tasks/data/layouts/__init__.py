"""Which layout the files of a folder have, and the settings by which its format reads them."""
