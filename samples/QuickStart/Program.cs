Console.WriteLine("Peft");
