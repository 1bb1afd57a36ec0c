// Package microvm boots a small virtual machine for tests: Debian's QEMU without
// hardware help, Debian's kernel, and an initramfs made of a static program and the
// kernel modules asked for. What a sandbox's own kernel has to be able to do is so
// tested with a real one, wherever the tests run. amd64 only.
//
// The program is the machine's init and begins with guestinit.Run.
package microvm

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
)

// Config says what to boot. Init is needed, all else may be left out.
type Config struct {
	// Init is the path of a static program, see Build and TestProgram.
	Init string
	// Args are the program's arguments.
	Args []string
	// Files are further files in the guest: path there to path here. They keep
	// their mode.
	Files map[string]string
	// Modules are names of kernel modules to load, in order. What they depend on,
	// and what the ports and the network need, comes by itself.
	Modules []string
	// Ports are names of virtio-serial ports. In the guest they are
	// /dev/virtio-ports/NAME, here a unix socket each, see VM.Port.
	Ports []string
	// Network is the guest's eth0, if it shall have one.
	Network *Tap
	// Memory is in MiB; 256 if it is 0.
	Memory int
	// Cmdline is added to the kernel's command line.
	Cmdline string
	// Console gets a copy of what the guest writes on its console, if not nil.
	Console io.Writer
}

// VM is a machine that was started.
type VM struct {
	dir     string
	pid     int
	console *console
	done    chan struct{}
	err     error // of QEMU's end, once done is closed
	stop    sync.Once
}

// base are the modules that every machine gets.
var base = []string{"virtio_mmio"}

// Start installs what is missing on this machine, and boots. The machine is killed
// when ctx ends. The caller calls Stop.
func Start(ctx context.Context, config Config) (*VM, error) {
	kernel, err := install(ctx)
	if err != nil {
		return nil, fmt.Errorf("preparing a microVM: %w", err)
	}
	dir, err := os.MkdirTemp("", "bh-microvm-")
	if err != nil {
		return nil, fmt.Errorf("making a microVM's folder: %w", err)
	}
	vm := &VM{dir: dir, console: newConsole(config.Console), done: make(chan struct{})}
	if err := vm.boot(ctx, kernel, config); err != nil {
		return nil, errors.Join(fmt.Errorf("starting a microVM: %w", err), os.RemoveAll(dir))
	}
	return vm, nil
}

func (vm *VM) boot(ctx context.Context, kernel kernel, config Config) error {
	image := filepath.Join(vm.dir, "initramfs")
	if err := writeInitramfs(ctx, image, kernel, config); err != nil {
		return err
	}
	rate, err := counterRate(ctx)
	if err != nil {
		return err
	}
	args := []string{
		"-M", "microvm,accel=tcg", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(max(config.Memory, 0)),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", kernel.image, "-initrd", image,
		"-append", strings.TrimSpace(fmt.Sprintf("console=ttyS0 reboot=t panic=-1 quiet random.trust_cpu=on tsc_early_khz=%d %s", rate, config.Cmdline)),
	}
	if config.Memory == 0 {
		args[slices.Index(args, "-m")+1] = "256"
	}
	if len(config.Ports) > 0 {
		args = append(args, "-device", "virtio-serial-device")
	}
	for i, name := range config.Ports {
		id := "port" + strconv.Itoa(i)
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,path=%s,server=on,wait=off", id, vm.Port(name)),
			"-device", fmt.Sprintf("virtserialport,chardev=%s,name=%s", id, name))
	}
	var extra []*os.File
	if config.Network != nil {
		tap, err := config.Network.open()
		if err != nil {
			return err
		}
		defer tap.Close()
		extra = append(extra, tap)
		args = append(args, "-netdev", "tap,id=net,fd=3,vhost=off", "-device", "virtio-net-device,netdev=net,mac="+config.Network.mac())
	}
	return vm.run(ctx, args, extra)
}

// run starts QEMU and returns. QEMU dies with this process, so that no test leaves
// one behind; the kernel ties it to the thread that started it, which therefore
// stays until QEMU's end.
func (vm *VM) run(ctx context.Context, args []string, extra []*os.File) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = vm.console, vm.console, extra
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		vm.err = cmd.Wait()
		vm.console.end()
		close(vm.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting qemu-system-x86_64: %w", err)
	}
	vm.pid = cmd.Process.Pid
	return nil
}

// Port is the path of the unix socket that leads to a virtio-serial port. It takes
// one peer at a time.
func (vm *VM) Port(name string) string { return filepath.Join(vm.dir, name+".sock") }

// PID is QEMU's process.
func (vm *VM) PID() int { return vm.pid }

// Console is what the guest has written on its console so far.
func (vm *VM) Console() string { return vm.console.text() }

// WaitConsole waits until the guest has written the text on its console.
func (vm *VM) WaitConsole(ctx context.Context, text string) error {
	for {
		more, so := vm.console.changed()
		if strings.Contains(so, text) {
			return nil
		}
		select {
		case <-more:
		case <-vm.done:
			if strings.Contains(vm.Console(), text) {
				return nil
			}
			return fmt.Errorf("the guest ended without having written %q; its console:\n%s", text, vm.Console())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q on the guest's console: %w; it has:\n%s", text, ctx.Err(), so)
		}
	}
}

var exitLine = regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(guestinit.ExitMark) + `(\d+)`)

// Wait waits for the guest to end and returns the exit code of its init, as
// guestinit.Run says it.
func (vm *VM) Wait(ctx context.Context) (int, error) {
	select {
	case <-vm.done:
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the guest's end: %w; its console:\n%s", ctx.Err(), vm.Console())
	}
	found := exitLine.FindStringSubmatch(vm.Console())
	if found == nil {
		return 0, fmt.Errorf("the guest ended without an exit code (QEMU: %w); its console:\n%s", orEnded(vm.err), vm.Console())
	}
	return strconv.Atoi(found[1])
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// Stop ends the machine if it still runs, and removes its files. It may be called
// more than once.
func (vm *VM) Stop() {
	vm.stop.Do(func() {
		select {
		case <-vm.done:
		default:
			// Not reaped before done is closed, so the id is still QEMU's own.
			_ = syscall.Kill(vm.pid, syscall.SIGKILL)
			<-vm.done
		}
		_ = os.RemoveAll(vm.dir)
	})
}

// Build compiles a program of this module statically into dir and returns its path.
func Build(ctx context.Context, dir, pkg string) (string, error) {
	return compile(ctx, dir, pkg, "build", "-trimpath", "-ldflags", "-s -w")
}

// TestProgram returns the path of the running test as a static program, whose TestMain
// calls guestinit.Run when guestinit.IsInit. One that is not static, such as with the race
// detector, is compiled once more, into dir.
func TestProgram(ctx context.Context, dir string) (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the running test: %w", err)
	}
	program, err := elf.Open(own)
	if err != nil {
		return "", fmt.Errorf("reading the running test: %w", err)
	}
	defer program.Close()
	if !slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return own, nil
	}
	return compile(ctx, dir, ".", "test", "-c", "-trimpath", "-ldflags", "-s -w")
}

func compile(ctx context.Context, dir, pkg string, args ...string) (string, error) {
	name := filepath.Base(pkg)
	if strings.HasPrefix(name, ".") {
		name = "program"
	}
	out := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", append(args, "-p", "2", "-o", out, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling %s for a microVM: %w:\n%s", pkg, err, text)
	}
	return out, nil
}

// settings is what guestinit finds in the initramfs.
func settings(config Config, modules []string) ([]byte, error) {
	return json.Marshal(guestinit.Settings{Args: config.Args, Modules: modules})
}
