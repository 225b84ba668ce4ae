"""Host agent: the program that runs on a GPU server and connects out to the control plane."""
