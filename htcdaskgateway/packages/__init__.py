"""Workers with the notebook's own packages: what is packed here, sent with the job and unpacked on the node."""
