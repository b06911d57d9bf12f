"""What is known of a model: cost, parameters, time, gradients, sensitivity, and how it trained."""
