"""One file a paper. nnU-Net finds the trainers here through ``nnUNet_extTrainer``."""
