// What meet.c does as the first of two, by raw system calls and from goroutines.
package main

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

const key, turns = 0x6d656574, 200

type operation struct {
	number uint16
	by     int16
	flags  int16
}

func call(number uintptr, a ...uintptr) uintptr {
	var all [6]uintptr
	copy(all[:], a)
	for {
		result, _, errno := syscall.Syscall6(number, all[0], all[1], all[2], all[3], all[4], all[5])
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			fmt.Println("call", number, "failed:", errno)
			os.Exit(1)
		}
		return result
	}
}

func change(set uintptr, number uint16, by int16) {
	one := operation{number, by, 0}
	call(syscall.SYS_SEMOP, set, uintptr(unsafe.Pointer(&one)), 1)
}

func main() {
	set := call(syscall.SYS_SEMGET, key, 2, 01600)
	queue := call(syscall.SYS_MSGGET, key, 01600)
	segment := call(syscall.SYS_SHMGET, key, 8192, 01600)
	at := call(syscall.SYS_SHMAT, segment, 0, 0)
	page := (*[2]int32)(*(*unsafe.Pointer)(unsafe.Pointer(&at)))
	for i := int32(1); i <= turns; i++ {
		page[0] = i
		change(set, 0, 1)
		change(set, 1, -1)
		if page[1] != i {
			fmt.Println("turn", i, "gave", page[1])
			os.Exit(1)
		}
	}
	said := struct {
		kind int64
		text [32]byte
	}{kind: 1}
	copy(said.text[:], fmt.Sprintf("process %d", os.Getpid()))
	call(syscall.SYS_MSGSND, queue, uintptr(unsafe.Pointer(&said)), 32, 0)
	call(syscall.SYS_MSGRCV, queue, uintptr(unsafe.Pointer(&said)), 32, 2, 0)
	call(syscall.SYS_SHMDT, at)
	// Many goroutines that block, each in a thread of its own.
	own := call(syscall.SYS_SEMGET, 0, 2, 0600)
	var all sync.WaitGroup
	for i := 0; i < 20; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			change(own, 0, -1)
			change(own, 1, 1)
		}()
	}
	change(own, 0, 20)
	all.Wait()
	change(own, 1, -20)
	call(syscall.SYS_SEMCTL, own, 0, 0, 0)
	fmt.Println("met")
}
