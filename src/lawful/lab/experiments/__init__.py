"""The experiments of the lab, one file each: what it shows and the expected bands on top."""
