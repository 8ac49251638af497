"""Deep plain networks learn worse than shallow ones, and shortcuts cure it: trains both, writes picture and JSON.

python tools/residual_study.py                                    on the embedded digits
python tools/residual_study.py data=cifar10 data.file=cifar10_jpeg.npz steps=64000 run_dir=study
python tools/residual_study.py networks=[plain_cifar_resnet20,plain_cifar_resnet110,cifar_resnet20,cifar_resnet110]
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("residual_study", "tasks.studies.residual_study:study", __doc__ or "")
