import torch
import torch.nn.functional as F

from ctcsd.model.subsampling import ConvSubsampling, frame_mask, subsampled_length


def plainly(front: ConvSubsampling, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The same in the default memory layout, step by step."""
    x = torch.relu(front.conv1(features[:, None]))
    x = x * frame_mask((lengths + 1) // 2, x.size(2))[:, None, :, None]
    x = torch.relu(F.conv2d(x, front.conv2.weight, front.conv2.bias, stride=2, padding=1))
    return torch.einsum("nctf,dcf->ntd", x, front.out.weight.unflatten(1, (x.size(1), -1))) + front.out.bias


def test_equals_the_plain_layout_in_values_and_gradients():
    torch.manual_seed(1)
    for frames, bins in ((37, 80), (2, 9), (1, 1)):
        front = ConvSubsampling(bins, 6, 10).double()
        features = torch.randn(3, frames, bins, dtype=torch.float64)
        lengths = torch.tensor([frames, max(1, frames - 5), 0])
        features = features * frame_mask(lengths, frames)[..., None]
        found, found_lengths = front(features, lengths)
        expected = plainly(front, features, lengths)
        assert found_lengths.tolist() == [subsampled_length(n) for n in lengths.tolist()]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        weights = torch.randn_like(expected)
        gradients = [torch.autograd.grad((y * weights).sum(), list(front.parameters())) for y in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
