"""From a policy to a quantized network: data, losses, the fine-tune loop and the recipes that use them."""
