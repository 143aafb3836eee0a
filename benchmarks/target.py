"""The target scenario: `configs/target.yaml`, its simulated market and its best possible Sharpe ratio; then real prices.

    python -m benchmarks.target run [--seeds 5] [--config configs/target.yaml] [--set KEY VALUE ...]
