import sys

from serve.supervisor import main

sys.exit(main())
