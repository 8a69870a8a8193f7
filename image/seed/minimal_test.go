package seed_test

import "imgtool/image/seed/seedtest"

const minimal = seedtest.Minimal
