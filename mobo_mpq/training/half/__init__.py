"""Fine-tunes in half precision, with loss scaling."""
