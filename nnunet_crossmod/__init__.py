"""Cross-modality segmentation with nnU-Net v2."""
