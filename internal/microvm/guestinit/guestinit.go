// Package guestinit is the beginning and the end of a program that is the init of
// a test's microVM: it mounts what a program expects, loads the kernel modules that
// the initramfs brought, and powers off with the exit code on the console.
package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// SettingsPath is where the initramfs has the Settings.
	SettingsPath = "/microvm/settings.json"
	// ExitMark precedes the exit code on the console.
	ExitMark = "microvm exits with code "
	// portsTimeout bounds the time until the virtio-serial ports have said their names.
	portsTimeout = 5 * time.Second
)

// Settings are what the machine's starter says to its init.
type Settings struct {
	Args    []string // of the program, without its name
	Modules []string // to load, in order
}

// ModulePath is where the initramfs has a module.
func ModulePath(name string) string { return "/microvm/modules/" + name + ".ko" }

// IsInit tells whether this process is the init of a microVM.
func IsInit() bool {
	_, err := os.Stat(SettingsPath)
	return os.Getpid() == 1 && err == nil
}

// Run prepares the machine, sets os.Args, runs the program and powers off. It does
// not return.
func Run(program func() int) {
	code := 125
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Println("microvm panics:", reason)
		}
		powerOff(code)
	}()
	if err := prepare(); err != nil {
		fmt.Println("microvm cannot start:", err)
		return
	}
	code = program()
}

func powerOff(code int) {
	fmt.Printf("\n%s%d\n", ExitMark, code)
	unix.Sync()
	// QEMU ends at a reboot, with whatever there is of power management.
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	fmt.Println("microvm cannot end:", err)
	select {}
}

func prepare() error {
	for _, mount := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(mount.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(mount.kind, mount.at, mount.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", mount.at, err)
		}
	}
	if os.Getenv("PATH") == "" {
		if err := os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(SettingsPath)
	if err != nil {
		return err
	}
	var settings Settings
	if err := json.Unmarshal(data, &settings); err != nil {
		return fmt.Errorf("reading %s: %w", SettingsPath, err)
	}
	os.Args = append([]string{"/init"}, settings.Args...)
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for _, name := range settings.Modules {
		if err := load(name, string(cmdline)); err != nil {
			return fmt.Errorf("loading kernel module %s: %w", name, err)
		}
	}
	return linkPorts()
}

// load loads a module with those parameters that the kernel's command line has for
// it, as modprobe does: QEMU tells so where its devices are.
func load(name, cmdline string) error {
	file, err := os.Open(ModulePath(name))
	if err != nil {
		return err
	}
	defer file.Close()
	var parameters []string
	for _, field := range strings.Fields(cmdline) {
		if parameter, is := strings.CutPrefix(field, name+"."); is {
			parameters = append(parameters, parameter)
		}
	}
	return unix.FinitModule(int(file.Fd()), strings.Join(parameters, " "), 0)
}

// linkPorts makes /dev/virtio-ports/NAME for each virtio-serial port, as udev does.
func linkPorts() error {
	const class, links = "/sys/class/virtio-ports", "/dev/virtio-ports"
	ports, err := filepath.Glob(class + "/*")
	if err != nil || len(ports) == 0 {
		return err
	}
	if err := os.MkdirAll(links, 0o755); err != nil {
		return err
	}
	for deadline := time.Now().Add(portsTimeout); ; {
		missing := 0
		for _, port := range ports {
			// The host says a port's name a moment after it made the port.
			name, err := os.ReadFile(port + "/name")
			if err != nil || len(strings.TrimSpace(string(name))) == 0 {
				missing++
				continue
			}
			err = os.Symlink("../"+filepath.Base(port), links+"/"+strings.TrimSpace(string(name)))
			if err != nil && !os.IsExist(err) {
				return err
			}
		}
		if missing == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d virtio-serial ports have no name", missing)
		}
		<-time.After(10 * time.Millisecond)
		ports, _ = filepath.Glob(class + "/*")
	}
}
