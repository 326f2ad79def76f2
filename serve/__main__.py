import sys

from serve.app import main

sys.exit(main())
