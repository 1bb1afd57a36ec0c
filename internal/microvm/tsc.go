package microvm

import (
	"context"
	"time"
)

// rateTime is how long the rate of the counter is measured. An error of a thousandth
// would not matter; what the scheduler takes away does not make one, as counter and
// clock are read together.
const rateTime = 20 * time.Millisecond

// counterRate is the rate of the time stamp counter in kHz, which the emulated
// processor's follows. The microvm machine has no other clock that Debian's kernel
// knows, and the kernel measures its rate by a device that QEMU emulates: on a busy
// machine that fails, and the boot hangs. So it is told.
func counterRate(ctx context.Context) (uint64, error) {
	begin, from := time.Now(), counter()
	select {
	case <-time.After(rateTime):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	ticks, took := counter()-from, time.Since(begin)
	return uint64(float64(ticks) / float64(took.Microseconds()) * 1000), nil
}
