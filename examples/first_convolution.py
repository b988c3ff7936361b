"""A convolution with known weights, its result and its gradients, by hand."""

import lucid
import lucid.nn as nn

conv = nn.Conv1d(in_channels=1, out_channels=1, kernel_size=2, bias=False)
with lucid.no_grad():
    conv.weight.copy_(lucid.tensor([[[5.0, 6.0]]]))

x = lucid.tensor([[[1.0, 2.0, 3.0, 4.0]]], requires_grad=True)
y = conv(x)
print("y", y.detach().numpy())  # 1·5 + 2·6, 2·5 + 3·6, 3·5 + 4·6

y.backward(lucid.ones_like(y))
assert x.grad is not None and conv.weight.grad is not None
print("dx", x.grad.numpy())  # every sample meets one tap or both
print("dw", conv.weight.grad.numpy())  # the sums of the samples under each tap

assert y.tolist() == [[[17.0, 28.0, 39.0]]]
assert x.grad.tolist() == [[[5.0, 11.0, 11.0, 6.0]]]
assert conv.weight.grad.tolist() == [[[6.0, 9.0]]]
