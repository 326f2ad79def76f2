import sys

from engine.output import make_decoration
from serve.app import main

make_decoration()
sys.exit(main())
