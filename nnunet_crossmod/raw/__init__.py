"""A raw data set: its crossmod block, images that are whole, the modality channel. Nothing here needs PyTorch."""
